"""What the configuration of the Hub and of cache volumes means for pods."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubequant.manifests.children import engine_files
from kubequant.manifests.recipe import CacheSettings
from kubequant.runtime.settings import MAX_AUTHORITIES_CHARS, Settings, engine_settings, load_settings, pod_files


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
    authorities.write_text("x" * (MAX_AUTHORITIES_CHARS + 1))
    with pytest.raises(OSError, match=str(MAX_AUTHORITIES_CHARS)):
        pod_files(configured)
    authorities.unlink()
    with pytest.raises(FileNotFoundError):
        pod_files(configured)
