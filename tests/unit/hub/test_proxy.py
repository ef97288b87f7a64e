"""Through a corporate proxy, to a hub whose certificate a company's own CA has signed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubequant.errors import Unavailable
from kubequant.hub.client import Hub
from kubequant.hub.session import Connecting
from kubequant.runtime.configured import hub_client
from kubequant.runtime.settings import Settings
from tests.fakehub import FakeHub
from tests.fakehub.faults import redirected
from tests.unit.hub.asking import describe, model
from tests.unit.hub.networks import Authority, ForwardProxy, authority, behind_tls, forward_proxy

HOST = "hub.company.test"


@pytest.fixture
def hub(empty: FakeHub) -> FakeHub:
    empty.add(model())
    return empty


@pytest.fixture
def company(tmp_path: Path) -> Authority:
    return authority(tmp_path, HOST)


@pytest.fixture
def secure(hub: FakeHub, company: Authority) -> Iterator[str]:
    """The hub by https, its files at another port by https, too."""
    with behind_tls(hub.url, company.server_context()) as port:
        yield f"https://127.0.0.1:{port}"


@pytest.fixture
def proxy(hub: FakeHub, company: Authority) -> Iterator[tuple[str, ForwardProxy]]:
    """The hub by https under a name that only the proxy knows."""
    with (
        behind_tls(hub.url, company.server_context(), HOST) as port,
        forward_proxy({HOST: ("127.0.0.1", port)}) as running,
    ):
        yield f"https://{HOST}:{port}", running


def test_a_private_ca_is_trusted_by_its_file(secure: str, company: Authority, hub: FakeHub) -> None:
    facts = describe(secure, "some/model", connecting=Connecting(ca_file=company.ca_file), token=lambda: "hf_operator")
    assert facts.repository == "some/model"
    assert {request.authorized for request in hub.requests.select(role="cdn")} == {False}
    assert {request.authorized for request in hub.requests.select(role="hub")} == {True}


def test_without_it_the_message_names_the_setting(secure: str, hub: FakeHub) -> None:
    with pytest.raises(Unavailable) as caught:
        describe(secure, "some/model")
    assert "CERTIFICATE_VERIFY_FAILED" in caught.value.message
    assert "Its certificate is not trusted: name the file of its CA in hub.caFile" in caught.value.message
    assert hub.requests.count() == 0


def test_a_certificate_for_another_host_is_not_taken(hub: FakeHub, company: Authority) -> None:
    with behind_tls(hub.url, company.server_context()) as port, pytest.raises(Unavailable, match="Hostname mismatch"):
        describe(f"https://localhost:{port}", "some/model", connecting=Connecting(ca_file=company.ca_file))


@pytest.mark.parametrize(
    "content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_file_that_is_none_is_said_at_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(OSError, match=r"hub\.caFile .*ca\.pem holds no certificates in PEM that can be read"):
        Hub(endpoint="https://hub.test", connecting=Connecting(ca_file=file))


def test_a_redirect_from_https_to_http_is_refused(hub: FakeHub, company: Authority) -> None:
    with (
        behind_tls(hub.url, company.server_context(), rewriting=False) as port,
        pytest.raises(Unavailable, match=r"redirects from https to http://127\.0\.0\.1, which is not followed"),
    ):
        describe(f"https://127.0.0.1:{port}", "some/model", connecting=Connecting(ca_file=company.ca_file))
    assert hub.requests.count(role="cdn") == 0


def test_a_redirect_from_http_to_https_is_followed_without_the_token(
    secure: str, company: Authority, hub: FakeHub
) -> None:
    with FakeHub([model()], tokens={"hf_operator": ()}) as plain:
        plain.faults.add(redirected("^/api/", f"{secure}/api/models/some/model/revision/main?blobs=true"))
        hub.add(plain.catalogue.repositories["some/model"])
        connecting = Connecting(ca_file=company.ca_file)
        assert describe(plain.url, "some/model", connecting=connecting, token=lambda: "hf_operator")
    assert [request.authorized for request in hub.requests.select("^/api/")] == [False]


def test_everything_goes_through_the_proxy_of_the_setting(
    proxy: tuple[str, ForwardProxy], company: Authority, hub: FakeHub
) -> None:
    url, running = proxy
    connecting = Connecting(proxy=f"http://127.0.0.1:{running.port}", ca_file=company.ca_file)
    assert describe(url, "some/model", connecting=connecting).repository == "some/model"
    assert f"CONNECT {url.removeprefix('https://')}" in running.asked
    assert all(asked.startswith(f"CONNECT {HOST}:") for asked in running.asked)
    assert len(set(running.asked)) == 2  # the hub, and where its files are
    assert hub.requests.count(role="cdn") > 0


def test_plain_http_goes_through_the_proxy_too(hub: FakeHub) -> None:
    with forward_proxy({"mirror.test": ("127.0.0.1", hub.port), "127.0.0.1": ("127.0.0.1", 0)}) as running:
        connecting = Connecting(proxy=f"http://127.0.0.1:{running.port}")
        facts = describe(f"http://mirror.test:{hub.port}", "some/model", connecting=connecting)
    assert facts.repository == "some/model"
    assert f"GET mirror.test:{hub.port}" in running.asked


def test_the_environment_names_a_proxy_and_who_needs_none(
    proxy: tuple[str, ForwardProxy], company: Authority, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, running = proxy
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{running.port}")
    monkeypatch.setenv("NO_PROXY", "")
    describe(url, "some/model", connecting=Connecting(ca_file=company.ca_file))
    assert running.asked
    running.asked.clear()
    monkeypatch.setenv("NO_PROXY", HOST)
    with pytest.raises(Unavailable, match="ConnectError"):
        describe(url, "some/model", connecting=Connecting(ca_file=company.ca_file))
    assert running.asked == []


def test_a_proxy_with_a_password_that_no_message_repeats(hub: FakeHub, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("user:geheim\n")
    wrong.write_text("user:falsch")
    with forward_proxy({"mirror.test": ("127.0.0.1", hub.port), "127.0.0.1": ("127.0.0.1", 0)}, "geheim") as running:
        url = f"http://mirror.test:{hub.port}"
        connecting = Connecting(proxy=f"http://127.0.0.1:{running.port}", proxy_credentials_file=right)
        assert describe(url, "some/model", connecting=connecting).repository == "some/model"
        with pytest.raises(Exception, match="407") as caught:
            describe(url, "some/model", connecting=replace(connecting, proxy_credentials_file=wrong))
        assert "falsch" not in str(caught.value)


def test_credentials_go_to_the_proxy_alone(hub: FakeHub, company: Authority, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("user:ge:heim\r\n")
    with (
        behind_tls(hub.url, company.server_context(), HOST) as port,
        forward_proxy({HOST: ("127.0.0.1", port)}, "ge:heim") as running,
    ):
        proxy = f"http://127.0.0.1:{running.port}"
        connecting = Connecting(proxy=proxy, proxy_credentials_file=credentials, ca_file=company.ca_file)
        assert describe(f"https://{HOST}:{port}", "some/model", connecting=connecting).repository == "some/model"
    assert running.asked and not any(request.authorized for request in hub.requests.select())


@pytest.mark.parametrize("content", [None, b"", b"user", b":password", b"user:pass\nword", b"\xff:geheim"])
def test_credentials_that_are_none_are_said_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "credentials"
    if content is not None:
        file.write_bytes(content)
    connecting = Connecting(proxy="http://127.0.0.1:9", proxy_credentials_file=file)
    with pytest.raises(OSError, match=r"hub\.proxyCredentialsFile .*credentials") as caught:
        Hub(endpoint="https://hub.test", connecting=connecting)
    assert not any(word in str(caught.value) for word in ("geheim", "pass\nword"))


def test_the_settings_reach_the_client(proxy: tuple[str, ForwardProxy], company: Authority, tmp_path: Path) -> None:
    url, running = proxy
    settings = Settings.model_validate(
        {
            "hub": {
                "endpoint": url,
                "proxy": f"http://127.0.0.1:{running.port}",
                "caFile": str(company.ca_file),
                "redirectHosts": ["*.company.test"],
                "cacheFolder": str(tmp_path / "cache"),
                "cacheBytes": 2**20,
            }
        }
    )

    async def ask() -> str:
        hub = hub_client(settings)
        try:
            return (await hub.describe("some/model")).repository
        finally:
            await hub.close()

    assert asyncio.run(ask()) == "some/model"
    assert running.asked and list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "ftp://proxy.test:21"])
def test_a_proxy_of_the_environment_that_speaks_no_http_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(OSError, match=r"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY of the environment is no URL of a proxy"):
        Hub(endpoint="https://hub.test")


def test_a_proxy_that_is_not_there(hub: FakeHub) -> None:
    with pytest.raises(Unavailable, match="ConnectError"):
        describe("http://mirror.test", "some/model", connecting=Connecting(proxy="http://127.0.0.1:9"))
