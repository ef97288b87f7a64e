"""What the configuration says of the inspector: how its Job reaches the Hub is how the operator does."""

from __future__ import annotations

from pathlib import Path

import yaml

from kubequant.runtime.configured import inspector_settings, pod_files
from kubequant.runtime.settings import load_settings


def written(folder: Path, **document: object) -> Path:
    (folder / "operator.yaml").write_text(yaml.safe_dump(document))
    return folder / "operator.yaml"


def test_without_an_image_nothing_is_inspected(tmp_path: Path) -> None:
    assert inspector_settings(load_settings(written(tmp_path))) is None


def test_the_hub_is_reached_as_the_operator_reaches_it(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
    hub = {
        "endpoint": "https://hub.example/mirror/", "proxy": "http://proxy.example:3128",
        "caFile": str(tmp_path / "ca.pem"), "redirectHosts": ["*.cdn.example"],
    }  # fmt: skip
    settings = load_settings(written(tmp_path, inspector={"image": "r/kubequant:1"}, hub=hub))
    made = inspector_settings(settings)
    assert made is not None
    assert (made.image, made.image_pull_policy) == ("r/kubequant:1", "IfNotPresent")
    assert made.hub_endpoint == "https://hub.example/mirror"
    assert dict(made.environment)["HTTPS_PROXY"].startswith("http://proxy.example:3128")
    assert made.redirect_hosts == ("*.cdn.example",)
    assert made.files == pod_files(settings), "the model's own ConfigMap: one copy of the certificates a model"
    assert made.files["ca.pem"] == "-----BEGIN CERTIFICATE-----"


def test_without_certificates_of_its_own_the_job_mounts_no_files(tmp_path: Path) -> None:
    made = inspector_settings(load_settings(written(tmp_path, inspector={"image": "r/kubequant:1"})))
    assert made is not None and made.files == {}
