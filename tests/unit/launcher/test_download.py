"""The downloader against a Hub of our own, as a process, with the clients that engine images bring."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kubequant.api.conditions import Reason
from kubequant.planning.engines.termination import Termination, parse_termination
from tests.fakehub import FakeHub, Fault, Repository
from tests.fakehub.content import BytesContent, SparseContent
from tests.fakehub.safetensors_files import checkpoint_files, safetensors_file
from tests.fakehub.tensors import Tensor
from tests.unit.launcher.programs import FILES, wait_until
from tests.unit.launcher.test_contract import load

sys.path.insert(0, str(FILES))  # as for a script that runs there: download.py imports its neighbour
program = load("download")

TOKEN = "hf_opensTheGatedOne0000"
SHARD_BYTES = 2 * 1024 * 1024
TENSORS = [Tensor(f"model.layers.{number}.mlp.down_proj.weight", "BF16", (1024, 1024)) for number in range(3)]
SMALL = {"config.json": BytesContent(b"{}"), "README.md": BytesContent(b"# hello"), "modeling.py": BytesContent(b"1")}
WEIGHTS = checkpoint_files(TENSORS, SHARD_BYTES)  # three shards and their index


def repositories() -> list[Repository]:
    tokenizer = {"tokenizer.json": BytesContent(b"{}"), "chat_template.jinja": BytesContent(b"x")}
    lost = {name: content for name, content in WEIGHTS.items() if "00003-of" not in name}
    huge = SparseContent(b"", 1 << 60)
    return [
        Repository.from_files("a/whole", {**SMALL, **tokenizer, **WEIGHTS}),
        Repository.from_files("a/gated", {**SMALL, **WEIGHTS}, gated="manual"),
        Repository.from_files("a/shard-missing", {**SMALL, **lost}),
        Repository.from_files("a/broken-header", {**SMALL, "model.safetensors": BytesContent(b"\0" * 64)}),
        Repository.from_files("a/short", {**SMALL, "model.safetensors": shorter(TENSORS)}),
        Repository.from_files("a/pickle", {**SMALL, "pytorch_model.bin": BytesContent(b"PK")}),
        Repository.from_files("a/huge", {**SMALL, "model.safetensors": huge}),
    ]


def shorter(tensors: list[Tensor]) -> SparseContent:
    whole = safetensors_file(tensors)
    return SparseContent(whole.head, whole.size - 1)


class Hub(FakeHub):
    """huggingface_hub 1.x compares hosts without their ports, takes the CDN for the hub, and asks it for the commit."""

    def _application(self, role: Any, routes: Any) -> web.Application:
        application = super()._application(role, routes)
        if role == "cdn":
            application.on_response_prepare.append(self._name_commit)
        return application

    async def _name_commit(self, request: web.Request, response: web.StreamResponse) -> None:
        repository = self.catalogue.repositories["{owner}/{name}".format(**request.match_info)]
        response.headers["X-Repo-Commit"] = repository.branches["main"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with Hub(repositories(), tokens={TOKEN: ("a/gated",)}) as hub:
        yield hub


@dataclass
class Pod:
    """One pod's volume, and the runs of its init container."""

    hub: FakeHub
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def log(self) -> Path:
        return self.folder / "termination-log"

    def start(
        self, repository: str, *options: str, python: str = sys.executable, revision: str | None = None
    ) -> subprocess.Popen[str]:
        self.log.touch()
        known = self.hub.catalogue.repositories.get(repository)
        commit = revision or (known.branches["main"] if known else "0" * 40)
        arguments = ["--repository", repository, "--revision", commit, "--to", str(self.model), "--pause", "0.05"]
        arguments += ["--attempts", "3", "--termination-log", str(self.log), *options]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        variables = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
        return subprocess.Popen(
            [python, str(FILES / "download.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**clean, **variables, **self.variables},
        )

    def run(self, repository: str, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(repository, *options, **more)
        try:
            stdout, stderr = process.communicate(timeout=90)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def told(self) -> Termination:
        told = parse_termination(self.log.read_text())
        assert told is not None
        assert told.stage == "download"
        return told

    def transfers(self, name: str) -> int:
        """How often a file of WEIGHTS was sent: small ones by the hub, under their name, large ones by the CDN."""
        return self.hub.requests.count(f"/{name}$", method="GET", role="hub") + self.hub.requests.count(
            WEIGHTS[name].sha256, method="GET", role="cdn"
        )

    def files(self) -> set[str]:
        found = (path for path in self.model.rglob("*") if path.is_file() and ".cache" not in path.parts)
        return {path.relative_to(self.model).as_posix() for path in found}


@pytest.fixture
def pod(hub: FakeHub, tmp_path: Path) -> Pod:
    return Pod(hub, tmp_path)


def clients() -> list[Any]:
    """The test environment's own huggingface_hub (2.x), and 1.x where an engine environment is built."""
    cache = Path(
        os.environ.get("KUBEQUANT_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubequant"
    )
    older = sorted(cache.glob("environments/*/lib/python*/site-packages/huggingface_hub-1.*.dist-info"))
    python = str(older[0].parents[3] / "bin" / "python") if older else ""
    missing = pytest.mark.skipif(not older, reason="no engine environment with huggingface_hub 1.x is built")
    return [pytest.param(sys.executable, id="2.x"), pytest.param(python, id="1.x", marks=missing)]


@pytest.mark.parametrize("python", clients())
def test_the_files_that_an_engine_reads_are_fetched_and_no_others(pod: Pod, python: str) -> None:
    ended = pod.run("a/whole", python=python)
    assert ended.returncode == 0, ended.stderr
    assert pod.files() == {"config.json", "tokenizer.json", "chat_template.jinja", *WEIGHTS, program.MARKER}
    assert pod.log.read_text() == "", "nothing to say of a success"
    assert "download: complete, 7 files" in ended.stdout
    assert pod.hub.requests.count("modeling.py|README") == 0


@pytest.mark.parametrize("python", clients())
def test_a_second_start_asks_nobody_anything(pod: Pod, python: str) -> None:
    pod.run("a/whole", python=python)
    pod.hub.requests.clear()
    again = pod.run("a/whole", python=python)
    assert again.returncode == 0
    assert pod.hub.requests.count() == 0


def test_a_file_that_was_lost_after_the_marker_is_fetched_again(pod: Pod) -> None:
    pod.run("a/whole")
    (pod.model / "config.json").unlink()
    assert pod.run("a/whole").returncode == 0
    assert "config.json" in pod.files()


def test_another_commit_is_not_taken_for_complete(pod: Pod) -> None:
    pod.run("a/whole")
    newer = pod.hub.catalogue.repositories["a/whole"].commit(
        {**SMALL, **WEIGHTS, "config.json": BytesContent(b'{"n":1}')}
    )
    assert pod.run("a/whole", revision=newer).returncode == 0
    assert (pod.model / "config.json").read_bytes() == b'{"n":1}'


@pytest.mark.parametrize("python", clients())
def test_a_container_that_is_killed_goes_on_where_it_was(pod: Pod, python: str) -> None:
    last = "model-00003-of-00003.safetensors"
    others = set(WEIGHTS) - {last}
    pod.hub.faults.add(Fault(WEIGHTS[last].sha256, times=99, method="GET", delay_seconds=60))
    process = pod.start("a/whole", python=python)
    notes = pod.model / ".cache/huggingface/download"  # huggingface_hub's own, written when a file is complete
    wait_until(lambda: all((notes / f"{name}.metadata").is_file() for name in others), "the other files")
    assert pod.told().reason is Reason.DOWNLOADING, "in progress, should the container be killed without a word"
    process.kill()
    process.communicate()
    assert not (pod.model / program.MARKER).exists()
    pod.hub.faults.clear()
    pod.hub.requests.clear()
    assert pod.run("a/whole", python=python).returncode == 0
    assert {name for name in WEIGHTS if pod.transfers(name)} == {last}


def test_sigterm_ends_it_at_once(pod: Pod) -> None:
    pod.hub.faults.add(Fault("/repos/", times=99, delay_seconds=60))
    process = pod.start("a/whole")
    wait_until(lambda: "Downloading" in pod.log.read_text(), "the download to begin")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_connection_that_is_cut_is_tried_again(pod: Pod) -> None:
    name = "model-00002-of-00003.safetensors"
    pod.hub.faults.add(Fault(WEIGHTS[name].sha256, times=1, method="GET", cut_after_bytes=500_000))
    pod.hub.faults.add(Fault("api/models/a/whole", times=1, status=503))
    ended = pod.run("a/whole")
    assert ended.returncode == 0, ended.stderr
    ranges = [request.range for request in pod.hub.requests.select(WEIGHTS[name].sha256, method="GET")]
    assert len(ranges) == 2, "cut once, and once more"


def test_a_hub_that_does_not_answer_is_given_up_in_the_end(pod: Pod) -> None:
    pod.variables["HF_ENDPOINT"] = "http://127.0.0.1:9"  # the discard port: nobody listens
    ended = pod.run("a/whole")
    assert ended.returncode == 1
    assert "attempt 2 of 3" in ended.stderr
    assert pod.told().reason is Reason.DOWNLOAD_FAILED


REFUSALS = {
    "gated, no token": ("a/gated", {}, Reason.DOWNLOAD_ACCESS_DENIED, "HTTP 401"),
    "gated, another's token": (
        "a/gated",
        {"HF_TOKEN": "hf_wrongTokenOfSomebody0"},
        Reason.DOWNLOAD_ACCESS_DENIED,
        "HTTP 40",
    ),
    "a shard that the index names is not there": ("a/shard-missing", {}, Reason.CORRUPT_CHECKPOINT, "00003-of-00003"),
    "a header that is none": ("a/broken-header", {}, Reason.CORRUPT_CHECKPOINT, "model.safetensors"),
    "a file that is shorter than its header says": ("a/short", {}, Reason.CORRUPT_CHECKPOINT, "bytes"),
    "no safetensors": ("a/pickle", {}, Reason.MODEL_NOT_FOUND, "no safetensors"),
    "more than the disk has": ("a/huge", {}, Reason.DISK_FULL, "it needs 1073741824.00 GiB"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_waiting_does_not_mend_is_said_at_once(name: str, pod: Pod) -> None:
    repository, variables, reason, words = REFUSALS[name]
    pod.variables.update(variables)
    ended = pod.run(repository)
    assert ended.returncode == 1
    told = pod.told()
    assert (told.reason, words in told.message) == (reason, True), told
    assert "attempt" not in ended.stderr
    assert not (pod.model / program.MARKER).exists()
    assert all(value not in pod.log.read_text() + ended.stderr for value in variables.values())


def test_the_numbers_of_a_disk_that_is_too_small(pod: Pod) -> None:
    pod.run("a/huge")
    told = pod.told()
    assert told.number("needed_bytes") == (1 << 60) + 2
    assert 0 < (told.number("free_bytes") or 0) < 1 << 60
    assert pod.hub.requests.count(role="cdn") == 0, "nothing was fetched"


def test_an_unknown_repository_or_commit(pod: Pod) -> None:
    pod.variables["HF_TOKEN"] = TOKEN  # without one the Hub does not tell a missing repository from a private one
    assert pod.run("a/nowhere").returncode == 1
    assert pod.told().reason is Reason.MODEL_NOT_FOUND
    assert pod.run("a/whole", revision="1" * 40).returncode == 1
    assert pod.told().reason is Reason.MODEL_NOT_FOUND


def test_a_token_opens_the_gated_one_and_stays_secret(pod: Pod) -> None:
    pod.variables["HF_TOKEN"] = TOKEN
    ended = pod.run("a/gated")
    assert ended.returncode == 0, ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr + "".join(
        path.read_text(errors="replace")
        for path in pod.folder.rglob("*")
        if path.is_file() and path.suffix != ".safetensors"
    )


SELECTED = {
    "consolidated weights beside Hugging Face's": (
        ["consolidated.00.safetensors", "model.safetensors", "params.json"],
        ["model.safetensors", "params.json"],
    ),
    "consolidated weights alone": (["consolidated.safetensors"], ["consolidated.safetensors"]),
    "originals, code and pictures": (
        ["original/params.json", "modeling_x.py", "a.png", "config.json"],
        ["config.json"],
    ),
    "tokenizers": (
        ["tokenizer.model", "tokenizer_config.json", "tokenizer.json", "vocab.txt", "merges.txt"],
        ["merges.txt", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.txt"],
    ),
    "other formats": (["model.gguf", "pytorch_model.bin", "model.onnx", "x.safetensors"], ["x.safetensors"]),
}


@pytest.mark.parametrize("name", SELECTED)
def test_selection(name: str) -> None:
    names, expected = SELECTED[name]
    assert program.select(names) == expected


def test_a_disk_that_fills_up_on_the_way_is_told_from_below_what_wraps_it() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("Data processing error")
    wrapped.__cause__ = full
    assert program.failure_of(wrapped, "a/b", "c").reason == "DiskFull"


def test_a_header_that_points_behind_the_file_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(program.Failure) as caught:
        program.check_header(path, path.name)
    assert caught.value.details["described_bytes"] == caught.value.details["file_bytes"] + 1
