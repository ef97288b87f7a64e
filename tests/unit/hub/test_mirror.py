"""A mirror in an air-gapped cluster: below a path, and nothing else is ever resolved or connected to."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kubequant.errors import Refused, Unavailable, Waiting
from kubequant.hub.session import Connecting
from kubequant.planning.values import Found
from tests.fakehub import FakeHub, Fault
from tests.fakehub.faults import redirected
from tests.unit.hub.asking import describe, model, with_hub
from tests.unit.hub.test_transport import transport


@pytest.fixture
def mirror() -> Iterator[FakeHub]:
    with FakeHub([model()], prefix="/hf", mirror=True, tokens={"hf_operator": ()}) as running:
        yield running


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every host that this process resolves or connects to from now on."""
    seen: set[str] = set()
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def resolving(host: str, *args: object, **more: object) -> object:
        seen.add(str(host))
        return resolve(host, *args, **more)  # type: ignore[arg-type]

    def connecting(self: socket.socket, address: tuple[str, int]) -> None:
        seen.add(str(address[0]))
        connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    monkeypatch.setattr(socket.socket, "connect", connecting)
    return seen


def test_a_mirror_below_a_path_is_described(mirror: FakeHub, reached: set[str]) -> None:
    assert mirror.url.endswith("/hf")
    facts = describe(mirror.url + "/", "some/model", token=lambda: "hf_operator")
    assert facts.commit == mirror.catalogue.repositories["some/model"].branches["main"]
    assert all(request.path.startswith("/hf/") for request in mirror.requests.select(role="hub"))
    assert {request.authorized for request in mirror.requests.select(role="hub")} == {True}
    assert reached == {"127.0.0.1"}


def test_nothing_leaves_for_elsewhere_whatever_goes_wrong(mirror: FakeHub, reached: set[str]) -> None:
    for repository, revision in (
        ("some/model", "v9"),
        ("no/model", "main"),
        ("some/model", "a" * 40),
        ("bad name", "main"),
    ):
        with pytest.raises((Refused, Waiting)):
            describe(mirror.url, repository, revision)

    facts = describe(mirror.url, "some/model")
    found = with_hub(mirror.url, lambda hub: hub.find(facts))
    assert isinstance(found, Found) and not found.checkpoints
    mirror.dead()
    with pytest.raises(Unavailable):
        describe(mirror.url, "some/model")
    assert reached == {"127.0.0.1"}


def test_a_redirect_out_is_refused_before_its_name_is_resolved(mirror: FakeHub, reached: set[str]) -> None:
    mirror.faults.add(redirected("^/repos/", "http://cdn.example.com/x"))
    with pytest.raises(
        Unavailable, match=r"cdn\.example\.com, which hub\.redirectHosts \(127\.0\.0\.1\) does not name"
    ):
        describe(mirror.url, "some/model", connecting=Connecting(redirect_hosts=("127.0.0.1",)))
    assert reached == {"127.0.0.1"}


@pytest.mark.parametrize("page", ["{url}/api/models?cursor=1", "https://elsewhere.example.com/api/models?cursor=1"])
def test_a_list_never_leads_to_another_page(reached: set[str], page: str) -> None:
    """A page's link is the server's word: it could lead the token anywhere."""
    with FakeHub([model(f"some/model{number}") for number in range(3)], tokens={"hf_operator": ()}) as hub:
        hub.faults.add(Fault("^/api/models$", headers={"Link": f'<{page.format(url=hub.url)}>; rel="next"'}))
        with transport(hub.url, "hf_operator") as ours:
            assert len(ours.list_models(limit=100)) == 3
        assert hub.requests.count() == 1
    assert reached == {"127.0.0.1"}
