"""What the configuration of the Hub and of cache volumes means for pods."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kubequant.cli.faults import sentences
from kubequant.manifests.children import engine_files
from kubequant.manifests.recipe import CacheSettings
from kubequant.runtime.configured import MAX_AUTHORITIES_BYTES, engine_settings, inspector_settings, pod_files
from kubequant.runtime.settings import Settings, load_settings


def settings(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load_settings(file)


def test_each_pod_downloads_for_itself_unless_volumes_are_configured(tmp_path: Path) -> None:
    assert engine_settings(Settings()).cache is None
    configured = settings(tmp_path, "modelCache: {kind: PersistentVolumeClaim, storageClassName: nfs}")
    assert engine_settings(configured).cache == CacheSettings("nfs", "ReadWriteMany")


def test_a_configured_proxy_is_the_downloads_too_and_the_operators_own_environment_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://of-the-operator:3128")
    assert engine_settings(Settings()).hub_environment == ()
    environment = dict(engine_settings(settings(tmp_path, "hub: {proxy: 'http://proxy:3128'}")).hub_environment)
    assert environment == {"HTTPS_PROXY": "http://proxy:3128/", "HTTP_PROXY": "http://proxy:3128/"}


def test_private_authorities_lie_beside_the_programs(tmp_path: Path) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_text("-----BEGIN CERTIFICATE-----")
    configured = settings(tmp_path, f"hub: {{caFile: {authorities}}}")
    assert pod_files(configured) == {**engine_files(), "ca.pem": "-----BEGIN CERTIFICATE-----"}
    assert pod_files(Settings()) == engine_files()
    authorities.unlink()
    with pytest.raises(OSError, match=r"hub\.caFile .*authorities\.pem cannot be read: No such file or directory"):
        pod_files(configured)


def test_what_is_copied_to_each_model_is_small_and_no_secret(tmp_path: Path) -> None:
    authorities = tmp_path / "authorities.pem"
    configured = settings(tmp_path, f"hub: {{caFile: {authorities}}}")
    authorities.write_bytes(b"\xff" * MAX_AUTHORITIES_BYTES)
    assert len(pod_files(configured)["ca.pem"].encode()) <= MAX_AUTHORITIES_BYTES
    authorities.write_bytes(b"x" * (MAX_AUTHORITIES_BYTES + 1))
    with pytest.raises(OSError, match="has 65537 bytes, and 65536 at most are copied"):
        pod_files(configured)
    authorities.write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\ngeheim")
    with pytest.raises(OSError, match="holds a private key") as caught:
        pod_files(configured)
    assert "geheim" not in str(caught.value)


PASSWORD = "s3cret"


@pytest.mark.parametrize(
    ("hub", "advice"),
    [
        (f"proxy: 'http://user:{PASSWORD}@proxy:3128'", "hub.proxyCredentialsFile"),
        (f"proxy: 'http://user:{PASSWORD}/@proxy:3128'", "hub.proxyCredentialsFile"),  # no URL as it stands
        (f"endpoint: 'https://user:{PASSWORD}@hub.test'", "hub.tokenFile"),
    ],
)
def test_a_password_in_a_url_that_pods_are_given_is_refused_and_not_repeated(
    tmp_path: Path, hub: str, advice: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(tmp_path, f"hub: {{{hub}}}")
    said = sentences(caught.value)
    assert advice in said and "must not hold a user name or password" in said
    assert PASSWORD not in said + str(caught.value)


def test_nor_is_it_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEQUANT_HUB__PROXY", f"http://user:{PASSWORD}@proxy:3128")
    with pytest.raises(ValidationError, match=r"hub\.proxyCredentialsFile"):
        Settings()


def test_the_operators_credentials_for_the_proxy_reach_no_pod(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text(f"user:{PASSWORD}\n")
    hub = f"hub: {{proxy: 'http://proxy:3128', proxyCredentialsFile: {credentials}}}"
    configured = settings(tmp_path, hub + "\ninspector: {image: operator}")
    given = repr((engine_settings(configured), inspector_settings(configured), pod_files(configured)))
    assert "http://proxy:3128/" in given
    assert PASSWORD not in given and str(credentials) not in given


def test_credentials_without_a_proxy_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"proxyCredentialsFile is for the proxy that hub\.proxy names"):
        settings(tmp_path, "hub: {proxyCredentialsFile: /credentials}")
