"""`kubequant inspect` as a process of its own: what an inspector's pod runs, and the termination message that it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Refused, Waiting
from kubequant.planning.facts_json import facts_from_json
from kubequant.planning.inspection import MESSAGE_BYTES, Answer, read_answer
from kubequant.planning.values import ModelFacts
from tests.fakehub import FakeHub
from tests.fakehub.repository import Repository
from tests.fakehub.safetensors_files import checkpoint_files
from tests.fakehub.tensors import Tensor
from tests.unit.hub.asking import describe, model
from tests.unit.hub.test_local import small

TOKEN, OUTSIDER = "hf_user", "hf_outsider"
ROOT = Path(__file__).parents[3]
SECONDS = 60


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    private, gated = model("some/private"), model("some/gated")
    private.private, gated.gated = True, "manual"
    tokens = {TOKEN: ("some/private", "some/gated"), OUTSIDER: ()}
    with FakeHub([private, gated], tokens=tokens) as running:
        yield running


def inspect(
    log: Path, *arguments: str | Path, token: str | None = None, program: tuple[str, ...] = ("-m", "kubequant")
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; the answer is in `log`, which the kubelet would have made."""
    log.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "KUBEQUANT_"))}
    done = subprocess.run(
        [sys.executable, *program, "inspect", *map(str, arguments), "--termination-log", str(log)],
        env=environment | ({"HF_TOKEN": token} if token is not None else {}),
        capture_output=True, text=True, timeout=SECONDS, cwd=ROOT,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def answer_in(log: Path) -> Answer:
    assert 0 < log.stat().st_size <= MESSAGE_BYTES
    return read_answer(log.read_text())


def refused_in(log: Path) -> Refused:
    answer = answer_in(log)
    assert isinstance(answer, Refused)
    return answer


@pytest.mark.parametrize("repository", ["some/private", "some/gated"])
def test_a_repository_that_the_token_opens(hub: FakeHub, tmp_path: Path, repository: str) -> None:
    log = tmp_path / "log"
    code, output, _ = inspect(log, "--repository", repository, "--endpoint", hub.url, token=f"{TOKEN}\n")
    facts = answer_in(log)
    assert code == 0 and facts == facts_from_json(output) == describe(hub.url, repository, token=lambda: TOKEN)
    assert TOKEN not in output + log.read_text()


@pytest.mark.parametrize(
    ("repository", "token", "reason", "said"),
    [
        ("some/private", OUTSIDER, Reason.REPOSITORY_NOT_FOUND, "token that the model names"),
        ("some/gated", OUTSIDER, Reason.ACCESS_GATED, "/some/gated with the account of the token"),
        ("some/gated", "hf_unknown", Reason.TOKEN_INVALID, "does not accept the token"),
        ("some/private", " \n", Reason.REPOSITORY_NOT_FOUND, "the key of the Secret that the model names is empty"),
        ("some/gated", "", Reason.ACCESS_GATED, "the key of the Secret that the model names is empty"),
        ("some/nothing", TOKEN, Reason.REPOSITORY_NOT_FOUND, "/some/nothing"),
    ],
)
def test_a_token_that_does_not_open_it(
    hub: FakeHub, tmp_path: Path, repository: str, token: str, reason: Reason, said: str
) -> None:
    code, output, errors = inspect(tmp_path / "l", "--repository", repository, "--endpoint", hub.url, token=token)
    refused = refused_in(tmp_path / "l")
    assert (code, output, refused.reason) == (3, "", reason)
    assert said in refused.message and refused.message in errors and "operator's token" not in refused.message
    assert token.strip() == "" or token not in errors + refused.message


def test_a_hub_that_does_not_answer_is_passing(tmp_path: Path) -> None:
    code, _, _ = inspect(tmp_path / "l", "--repository", "a/b", "--endpoint", "http://127.0.0.1:9", token=TOKEN)
    answer = answer_in(tmp_path / "l")
    assert code == 1 and isinstance(answer, Waiting) and answer.reason == Reason.HUB_UNAVAILABLE


def test_a_folder(tmp_path: Path) -> None:
    folder = small(tmp_path / "m")
    code, output, _ = inspect(tmp_path / "l", "--folder", folder)
    facts = answer_in(tmp_path / "l")
    assert code == 0 and isinstance(facts, ModelFacts) and facts == facts_from_json(output)
    assert len(facts.commit) == 40


def test_without_a_termination_log_the_answer_is_printed_alone(tmp_path: Path) -> None:
    folder = small(tmp_path / "m")
    done = subprocess.run(
        [sys.executable, "-m", "kubequant", "inspect", "--folder", folder, "--termination-log", tmp_path / "none"],
        capture_output=True, text=True, timeout=SECONDS, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0 and facts_from_json(done.stdout).weight_bytes > 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("arguments", [(), ("--repository", "a/b", "--folder", "/tmp")])
def test_misuse(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, _, errors = inspect(tmp_path / "l", *arguments)
    assert code == 2 and "name one model" in errors


_AS_SOMEBODY_ELSE = """
import os, sys
import kubequant.cli.inspecting, kubequant.planning.architectures, kubequant.cli.main
os.setgroups([]); os.setgid(65532); os.setuid(65532)
kubequant.cli.main.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("unreadable", ["", "config.json", "model-00002-of-00005.safetensors"])
def test_files_that_the_pods_user_may_not_read(tmp_path_factory: pytest.TempPathFactory, unreadable: str) -> None:
    parent = tmp_path_factory.mktemp("volume")
    for folder in (parent, *list(parent.parents)[:2]):
        folder.chmod(0o755)
    folder = small(parent / "m")
    (folder / unreadable).chmod(0o600)
    log = parent / "log"
    log.touch()
    log.chmod(0o666)
    code, _, errors = inspect(log, "--folder", folder, program=("-c", _AS_SOMEBODY_ELSE))
    assert code == 3, errors
    refused = refused_in(log)
    assert code == 3 and refused.reason == Reason.INSPECTION_FAILED
    assert "user 65532 of group 65532" in refused.message and "chmod -R a+rX" in refused.message
    assert str(folder / unreadable) in refused.message


def mixture(layers: int, experts: int) -> list[Tensor]:
    """DeepSeek-V3's layout in its FP8 blocks, with its multi-token prediction left out: 2 x 3 x experts tensors a layer."""
    hidden, inner = 7168, 2048
    tensors = [
        Tensor("model.embed_tokens.weight", "BF16", (129280, hidden)),
        Tensor("model.norm.weight", "BF16", (hidden,)),
    ]
    tensors.append(Tensor("lm_head.weight", "BF16", (129280, hidden)))
    attention = {"q_a_proj": (1536, hidden), "q_b_proj": (24576, 1536), "kv_a_proj_with_mqa": (576, hidden),
                 "kv_b_proj": (32768, 512), "o_proj": (hidden, 16384)}  # fmt: skip
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors.append(Tensor(f"{at}.{name}.weight", "BF16", (hidden,)))
        tensors += [Tensor(f"{at}.self_attn.q_a_layernorm.weight", "BF16", (1536,)),
                    Tensor(f"{at}.self_attn.kv_a_layernorm.weight", "BF16", (512,))]  # fmt: skip
        for name, shape in attention.items():
            tensors += fp8(f"{at}.self_attn.{name}", shape)
        tensors += [Tensor(f"{at}.mlp.gate.weight", "BF16", (experts, hidden)),
                    Tensor(f"{at}.mlp.gate.e_score_correction_bias", "F32", (experts,))]  # fmt: skip
        for module in ("shared_experts", *(f"experts.{expert}" for expert in range(experts))):
            for name, shape in (
                ("gate_proj", (inner, hidden)),
                ("up_proj", (inner, hidden)),
                ("down_proj", (hidden, inner)),
            ):
                tensors += fp8(f"{at}.mlp.{module}.{name}", shape)
    return tensors


def fp8(module: str, shape: tuple[int, int]) -> list[Tensor]:
    blocks = (-(-shape[0] // 128), -(-shape[1] // 128))
    return [Tensor(f"{module}.weight", "F8_E4M3", shape), Tensor(f"{module}.weight_scale_inv", "F32", blocks)]


def test_a_mixture_of_256_experts_and_60_layers_fits_a_termination_message(tmp_path: Path) -> None:
    config: dict[str, Any] = json.loads((ROOT / "tests/data/architectures/deepseek-v3.json").read_text())
    config |= {"num_hidden_layers": 60, "first_k_dense_replace": 0}
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    tensors = mixture(60, 256)
    assert len(tensors) > 90_000
    repository = Repository.from_files(
        "deepseek/large", {"config.json": json.dumps(config).encode(), **checkpoint_files(tensors)}
    )
    head = repository.find("main")
    assert head is not None
    folder = tmp_path / "m"
    folder.mkdir()
    for name, content in head.files.items():
        with (folder / name).open("wb") as file:
            file.write(getattr(content, "head", b"") or content.read(0, content.size))
            file.truncate(content.size)  # sparse: no weights are written
    code, _, errors = inspect(tmp_path / "l", "--folder", folder)
    facts = answer_in(tmp_path / "l")
    assert code == 0 and isinstance(facts, ModelFacts), errors
    assert facts.shape.experts is not None and facts.shape.experts.experts == 256
    assert facts.weight_bytes == sum(tensor.size_bytes for tensor in tensors) > 600 * 2**30
    assert (tmp_path / "l").stat().st_size < 3000, "room for what later versions add"
