"""The downloader against a Hub of our own, as a process, with the clients that engine images bring."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from kubequant.api.conditions import Reason
from kubequant.hub.checksums import checksum_of
from kubequant.hub.patterns import ALLOW_PATTERNS, IGNORE_PATTERNS, downloaded
from kubequant.planning.engines.termination import Termination, parse_termination
from tests.fakehub import FakeHub, Fault, Repository
from tests.fakehub.content import BytesContent, Content, SparseContent
from tests.fakehub.safetensors_files import checkpoint_files, safetensors_file
from tests.fakehub.tensors import Tensor
from tests.localcluster.pki import CertificateAuthority
from tests.unit.launcher.programs import FILES, wait_until
from tests.unit.launcher.test_contract import load
from tests.unit.launcher.tls import tls_in_front_of

sys.path.insert(0, str(FILES))  # as for a script that runs there: download.py imports its neighbour
files = load("model_files")
program = load("download")

TOKEN = "hf_opensTheGatedOne0000"
SHARD_BYTES = 2 * 1024 * 1024
TENSORS = [Tensor(f"model.layers.{number}.mlp.down_proj.weight", "BF16", (1024, 1024)) for number in range(3)]
SMALL = {"config.json": BytesContent(b"{}"), "README.md": BytesContent(b"# hello"), "modeling.py": BytesContent(b"1")}


def solid(content: Content) -> BytesContent:
    """All bytes in memory: the digests of a sparse file are not those of its data."""
    return BytesContent(content.read(0, content.size))


# Three shards and their index.
WEIGHTS = {name: solid(content) for name, content in checkpoint_files(TENSORS, SHARD_BYTES).items()}


FORGED = safetensors_file(TENSORS[:1])
LARGE = solid(
    safetensors_file([Tensor("model.embed_tokens.weight", "BF16", (5120, 4096))])
)  # 40 MiB, in chunks of 10 MB


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
        Repository.from_files("a/large", {"config.json": SMALL["config.json"], "model.safetensors": LARGE}),
        Repository.from_files("a/forged", {"config.json": SMALL["config.json"], "model.safetensors": FORGED}),
        Repository.from_files("a/pickle", {**SMALL, "pytorch_model.bin": BytesContent(b"PK")}),
        Repository.from_files("a/huge", {**SMALL, "model.safetensors": huge}),
    ]


def shorter(tensors: list[Tensor]) -> BytesContent:
    return BytesContent(solid(safetensors_file(tensors)).data[:-1])


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
    log_name: str = "termination-log"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def log(self) -> Path:
        return self.folder / self.log_name

    def start(
        self,
        repository: str,
        *options: str,
        python: str = sys.executable,
        revision: str | None = None,
        programs: Path = FILES,
    ) -> subprocess.Popen[str]:
        self.log.touch()
        known = self.hub.catalogue.repositories.get(repository)
        commit = revision or (known.branches["main"] if known else "0" * 40)
        arguments = ["--repository", repository, "--revision", commit, "--to", str(self.model), "--pause", "0.05"]
        arguments += ["--attempts", "3", "--termination-log", str(self.log), *options]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        variables = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
        return subprocess.Popen(
            [python, str(programs / "download.py"), *arguments],
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

    def parts(self) -> list[Path]:
        return list((self.model / files.PARTS).glob("*.part"))

    def begun_bytes(self) -> int:
        return max((path.stat().st_size for path in self.parts()), default=0)

    def files(self) -> set[str]:
        """Without the notes that the downloader makes for itself; the marker of completeness counts."""
        names = {path.relative_to(self.model).as_posix() for path in self.model.rglob("*") if path.is_file()}
        return {name for name in names if not name.startswith(files.OWN) or name == program.MARKER}


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
    wait_until(lambda: others <= pod.files(), "the other files")
    assert pod.told().reason is Reason.DOWNLOADING, "in progress, should the container be killed without a word"
    process.kill()
    process.communicate()
    assert not (pod.model / program.MARKER).exists()
    pod.hub.faults.clear()
    pod.hub.requests.clear()
    assert pod.run("a/whole", python=python).returncode == 0
    assert {name for name in WEIGHTS if pod.transfers(name)} == {last}


@pytest.mark.parametrize("python", clients())
def test_a_file_that_was_cut_short_by_a_kill_is_not_fetched_twice(pod: Pod, python: str) -> None:
    pod.hub.faults.add(Fault(LARGE.sha256, method="GET", bytes_per_second=30 << 20))
    process = pod.start("a/large", python=python)
    wait_until(lambda: pod.begun_bytes() > 2**20, "a part of it")
    process.kill()
    process.communicate()
    begun = pod.begun_bytes()
    assert begun < LARGE.size
    assert pod.run("a/large", python=python).returncode == 0
    asked = [request.range for request in pod.hub.requests.select(LARGE.sha256, method="GET", role="cdn")]
    assert asked[-1] == f"bytes={begun}-", "what was there is not asked for again"
    assert len(asked) <= 2, "the one that was killed may stand there too"
    assert (pod.model / "model.safetensors").read_bytes() == LARGE.data
    assert not pod.parts()


def test_a_part_that_is_not_of_the_file_is_noticed_and_fetched_anew(pod: Pod) -> None:
    """As a node that lost its power leaves it: the right length, and other bytes."""
    commit = pod.hub.catalogue.repositories["a/large"].branches["main"]
    part = files.part_of(pod.model, "model.safetensors", commit)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 12_000_000)
    ended = pod.run("a/large")
    assert ended.returncode == 0, ended.stderr
    assert "attempt 1 of 3: model.safetensors is not the file that the hub lists" in ended.stderr
    assert (pod.model / "model.safetensors").read_bytes() == LARGE.data


def test_a_second_pod_of_the_volume_waits_and_downloads_nothing(pod: Pod, tmp_path: Path) -> None:
    pod.hub.faults.add(Fault(LARGE.sha256, method="GET", bytes_per_second=20 << 20))
    first = pod.start("a/large")
    wait_until(lambda: pod.begun_bytes() > 2**20, "the first to download")
    neighbour = Pod(pod.hub, tmp_path, log_name="neighbour-log")
    second = neighbour.start("a/large")
    wait_until(lambda: "another pod" in neighbour.log.read_text(), "the second to wait")
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "was completed by another pod" in outputs[1]
    assert pod.hub.requests.count(LARGE.sha256, method="GET", role="cdn") == 1


def test_a_volume_without_locks_is_filled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(program.fcntl, "flock", no_locks)
    progress = program.Progress(tmp_path, 1, str(tmp_path / "log"))
    with program.alone(tmp_path, progress):
        pass
    assert "no file locks" in capfd.readouterr().err


def test_whoever_asks_is_told_how_far_it_is(pod: Pod) -> None:
    pod.hub.faults.add(Fault(LARGE.sha256, method="GET", bytes_per_second=20 << 20))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = pod.start("a/large", "--port", str(port))

    def status() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    wait_until(lambda: status().get("downloaded_bytes", 0) > 10_000_000, "progress")
    told = status()
    assert (told["version"], told["phase"], told["total_bytes"]) == (1, "Downloading", LARGE.size + 2)
    assert told["downloaded_bytes"] <= LARGE.size + 2
    process.kill()
    process.communicate()


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
    assert ended.returncode == program.EXIT_PERMANENT
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


@pytest.fixture
def secure(hub: FakeHub, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The hub behind TLS that a private authority signed: its URL, and the authority's certificate."""
    authority = CertificateAuthority(tmp_path / "pki")
    pair = authority.issue("server", "localhost", alternatives=["localhost"])
    with tls_in_front_of(urlsplit(hub.url).port or 0, pair) as port:
        yield f"https://localhost:{port}", authority.certificate


@pytest.mark.parametrize("python", clients())
def test_a_private_authority_is_trusted_where_the_operator_was_given_one(
    pod: Pod, secure: tuple[str, Path], python: str
) -> None:
    url, authority = secure
    pod.variables["HF_ENDPOINT"] = url
    ended = pod.run("a/whole", "--attempts", "1", python=python)
    assert ended.returncode == program.EXIT_PASSING
    assert "CERTIFICATE_VERIFY_FAILED" in pod.told().message
    programs = pod.folder / "programs"
    shutil.copytree(FILES, programs, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(authority, programs / program.AUTHORITIES)
    ended = pod.run("a/whole", "--attempts", "1", python=python, programs=programs)
    assert ended.returncode == 0, ended.stderr
    assert set(WEIGHTS) <= pod.files()


def test_an_unknown_repository_or_commit(pod: Pod) -> None:
    pod.variables["HF_TOKEN"] = TOKEN  # without one the Hub does not tell a missing repository from a private one
    assert pod.run("a/nowhere").returncode == program.EXIT_PERMANENT
    assert pod.told().reason is Reason.MODEL_NOT_FOUND
    assert pod.run("a/whole", revision="1" * 40).returncode == program.EXIT_PERMANENT
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
    "consolidated weights alone": (["consolidated.safetensors"], []),
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
    assert files.select(names) == expected == sorted(downloaded(names)), "the operator plans on the same files"


def test_both_sides_have_the_same_patterns() -> None:
    assert (files.ALLOWED, files.IGNORED) == (ALLOW_PATTERNS, IGNORE_PATTERNS)


VECTORS = json.loads((Path(__file__).parents[2] / "data/checksums.json").read_text())["cases"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["case"] for vector in VECTORS])
def test_both_sides_compute_the_same_checksum(vector: dict[str, Any]) -> None:
    assert files.checksum_of(vector["digests"]) == checksum_of(vector["digests"]) == vector["expected"]


def checksum(repository: Repository) -> str:
    """As the operator pins it."""
    contents = repository.commits[repository.branches["main"]].files
    digests = {name: content.sha256 for name, content in contents.items() if name.endswith(".safetensors")}
    listed = {
        name: f"sha256:{digests[name]}" if name in digests else f"git:{contents[name].git_oid}" for name in contents
    }
    return checksum_of({name: listed[name] for name in downloaded(contents)})


@pytest.mark.parametrize("python", clients())
def test_the_files_planned_with_pass_their_checksum(pod: Pod, python: str) -> None:
    pinned = checksum(pod.hub.catalogue.repositories["a/whole"])
    ended = pod.run("a/whole", "--checksums", pinned, python=python)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((pod.model / program.MARKER).read_text())["checksums"] == pinned
    pod.hub.requests.clear()
    assert pod.run("a/whole", "--checksums", pinned).returncode == 0
    assert pod.hub.requests.count() == 0, "the marker remembers"


def test_files_other_than_those_planned_with_are_refused_before_anything_is_fetched(pod: Pod) -> None:
    ended = pod.run("a/whole", "--checksums", "0" * 64)
    assert ended.returncode == program.EXIT_PERMANENT
    assert pod.told().reason is Reason.CHECKSUM_MISMATCH
    assert "not those that were planned with" in pod.told().message
    assert pod.hub.requests.count(role="cdn") == 0


def test_a_file_that_is_not_the_one_listed_is_named(pod: Pod) -> None:
    """The digests that this hub lists of a sparse file are of something else than its bytes."""
    ended = pod.run("a/forged")
    assert ended.returncode == program.EXIT_PERMANENT
    assert pod.told().reason is Reason.CHECKSUM_MISMATCH
    assert pod.told().message.startswith("model.safetensors is not the file that the hub lists")
    assert pod.files() == {"config.json"}


def test_a_hub_that_names_no_digests_is_refused_only_where_the_plan_pinned_some() -> None:
    nameless = files.Wanted({"config.json": files.Entry(2, "git:" + "0" * 40), "model.safetensors": files.Entry(8, "")})
    files.check_pinned("a/b", nameless, "")
    with pytest.raises(files.Failure, match=r"names no digest of model\.safetensors") as caught:
        files.check_pinned("a/b", nameless, "0" * 64)
    assert (caught.value.reason, caught.value.passing) == ("ChecksumMismatch", False)


@pytest.mark.parametrize("python", clients())
def test_a_mirror_that_names_no_digests_serves_what_was_planned_without_any(tmp_path: Path, python: str) -> None:
    with Hub(repositories(), prefix="/hf", mirror=True) as mirror:
        pod = Pod(mirror, tmp_path)
        ended = pod.run("a/whole", "--checksums", "0" * 64, python=python)
        assert ended.returncode == program.EXIT_PERMANENT
        assert pod.told().reason is Reason.CHECKSUM_MISMATCH
        assert "names no digest" in pod.told().message
        ended = pod.run("a/whole", "--expected-bytes", "6500000", python=python)
        assert ended.returncode == 0, ended.stderr
        assert set(WEIGHTS) <= pod.files()


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/../../x.json", ".kubequant-complete.json", "a\0.json"])
def test_a_name_that_leads_out_of_the_folder_or_onto_our_notes_is_refused(name: str) -> None:
    with pytest.raises(files.Failure, match="cannot be stored"):
        files.check_name(name)


def test_a_file_of_unknown_origin_counts_only_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    right, wrong = BytesContent(b"{}").git_oid, BytesContent(b"[]").git_oid
    assert files.is_there(tmp_path, "config.json", files.Entry(2, f"git:{right}"), trusted=False)
    assert not files.is_there(tmp_path, "config.json", files.Entry(2, f"git:{wrong}"), trusted=False)
    assert not files.is_there(tmp_path, "config.json", files.Entry(2, ""), trusted=False)
    assert files.is_there(tmp_path, "config.json", files.Entry(2, ""), trusted=True)


def test_a_disk_that_fills_up_on_the_way_is_told_from_below_what_wraps_it() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("Data processing error")
    wrapped.__cause__ = full
    assert files.failure_of(wrapped, "a/b", "c").reason == "DiskFull"


def test_a_header_that_points_behind_the_file_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(files.Failure) as caught:
        files.check_header(path, path.name)
    assert caught.value.details["described_bytes"] == caught.value.details["file_bytes"] + 1
