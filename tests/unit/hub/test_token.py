"""The operator's token goes to the endpoint and nowhere else; the environment adds none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.hub.client import Hub
from tests.fakehub import FakeHub, Fault
from tests.fakehub.faults import ALWAYS
from tests.unit.hub.asking import describe, model, with_hub
from tests.unit.hub.test_transport import transport

ROOT = Path(__file__).parents[3]


def test_the_token_goes_to_the_hub_and_never_to_the_host_of_a_redirect(empty: FakeHub) -> None:
    empty.add(model())
    describe(empty.url, "some/model", token=lambda: "hf_operator")
    assert empty.requests.count(role="cdn") > 0
    assert {request.authorized for request in empty.requests.select(role="cdn")} == {False}
    assert {request.authorized for request in empty.requests.select(role="hub")} == {True}


def test_information_that_redirects_elsewhere_takes_no_token_along(empty: FakeHub) -> None:
    empty.add(model())
    with FakeHub([model()]) as elsewhere:
        target = f"{elsewhere.url}/api/models/some/model/revision/main?blobs=true"
        empty.faults.add(Fault("^/api/models/", status=307, headers={"Location": target}))
        describe(empty.url, "some/model", token=lambda: "hf_operator")
        assert [request.authorized for request in elsewhere.requests.select()] == [False]


def test_the_token_is_read_again_for_every_description(empty: FakeHub) -> None:
    for name in ("some/first", "some/second"):
        empty.add(model(name))
    tokens = iter([None, "hf_operator"])

    async def ask(hub: Hub) -> None:
        await hub.describe("some/first")
        await hub.describe("some/second")

    with_hub(empty.url, ask, token=lambda: next(tokens))
    assert {request.authorized for request in empty.requests.select("some/first", role="hub")} == {False}
    assert {request.authorized for request in empty.requests.select("some/second", role="hub")} == {True}


def test_no_cookie_is_kept(empty: FakeHub) -> None:
    """A mirror's log-in of one identity must not speak for the next."""
    empty.add(model())
    empty.faults.add(Fault("^/api/", times=ALWAYS, headers={"Set-Cookie": "session=1; Path=/"}))
    with transport(empty.url) as ours:
        ours.model_info("some/model", "main")
        assert dict(ours._session._client.cookies) == {}


@pytest.mark.parametrize("token", ["hf_\u00e9", "two words", "hf_a\nInjected: header", "\x00"])
def test_a_token_that_no_header_can_carry_is_named(empty: FakeHub, token: str) -> None:
    with pytest.raises(Refused, match=r"The operator's token for the hub at .* is none") as caught:
        describe(empty.url, "some/model", token=lambda: token)
    assert caught.value.reason is Reason.TOKEN_INVALID and token not in caught.value.message
    assert empty.requests.count() == 0


def test_the_environment_changes_neither_endpoint_nor_identity(empty: FakeHub, tmp_path: Path) -> None:
    empty.add(model())
    (tmp_path / "token").write_text("hf_of_the_disk")
    script = "from tests.unit.hub.asking import describe; import sys; print(describe(sys.argv[1], 'some/model').commit)"
    surprising = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_of_the_environment", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, empty.url],
        env=os.environ | surprising | {"PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == empty.catalogue.repositories["some/model"].branches["main"], done.stderr
    assert {request.authorized for request in empty.requests.select()} == {False}


def test_offline_mode_of_the_environment_is_named(empty: FakeHub) -> None:
    script = "from tests.unit.hub.asking import describe; import sys; describe(sys.argv[1], 'some/model')"
    done = subprocess.run(
        [sys.executable, "-c", script, empty.url],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "HF_HUB_OFFLINE is set in the operator's environment. Remove it." in done.stderr
