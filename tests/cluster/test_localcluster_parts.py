"""The local cluster's pure parts: fleets, the audit log, image archives, apt's sources. No cluster is started."""

import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.localcluster import AuditKey, ClusterError
from tests.localcluster.archive import ImageConfig, Layer, write_image
from tests.localcluster.audit import count, read_entries
from tests.localcluster.build import PROGRAMS, kubernetes_version
from tests.localcluster.fleet import FAKE_NODE_TAINT, load_fleet, shipped_fleets
from tests.localcluster.rootfs import debian_mirror
from tests.localcluster.toolchain import required_version


@pytest.mark.parametrize("name", shipped_fleets())
def test_a_shipped_fleet_has_valid_nodes_with_names_of_their_own(name: str) -> None:
    nodes = load_fleet(name).nodes(tainted=False)
    names = [node["metadata"]["name"] for node in nodes]
    assert len(set(names)) == len(names) > 0
    for node in nodes:
        labels = node["metadata"]["labels"]
        assert all(len(value) <= 63 for value in labels.values())
        if "nvidia.com/gpu.count" in labels and labels.get("nvidia.com/mig.strategy") != "mixed":
            assert labels["nvidia.com/gpu.count"] == node["status"]["allocatable"]["nvidia.com/gpu"]


def test_nodes_are_tainted_only_beside_a_real_one() -> None:
    assert load_fleet("l4").nodes(tainted=False)[0]["spec"]["taints"] == []
    assert load_fleet("l4").nodes(tainted=True)[0]["spec"]["taints"] == [FAKE_NODE_TAINT]


def test_a_label_of_null_takes_gfds_label_away() -> None:
    gpu = {"product": "NVIDIA-GB10", "count": 1, "memoryMiB": 0, "computeCapability": "12.1"}
    group = {"name": "spark", "gpu": gpu, "labels": {"nvidia.com/gpu.memory": None}}
    (node,) = load_fleet({"name": "sparks", "nodes": [group]}).nodes(tainted=False)
    assert "nvidia.com/gpu.memory" not in node["metadata"]["labels"]
    assert node["metadata"]["labels"]["nvidia.com/gpu.compute.major"] == "12"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"nodes": "l4"}, "must be a list"),
        ({"nodes": [{"count": 2}]}, r"nodes\[0\]: name missing"),
        ({"nodes": [{"name": "a", "gpus": 2}]}, r"nodes\[0\]: unknown gpus; known are count, gpu"),
        ({"nodes": [{"name": "a", "gpu": {"product": "x"}}]}, r"nodes\[0\].gpu: computeCapability, count, memoryMiB"),
    ],
    ids=["no list", "no name", "unknown key", "half a GPU"],
)
def test_a_bad_fleet_names_the_bad_key(document: dict[str, object], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        load_fleet(document)


def test_an_unknown_fleet_lists_the_shipped_ones() -> None:
    with pytest.raises(ClusterError, match="shipped are: a10, a100-40"):
        load_fleet("rtx9090")


def _audit_line(identifier: str, user: str, verb: str, code: int = 200, stage: str = "ResponseComplete") -> str:
    event = {
        "auditID": identifier,
        "stage": stage,
        "requestURI": "/api/v1/pods?watch=true",
        "verb": verb,
        "user": {"username": user},
        "objectRef": {"resource": "pods", "namespace": "default", "subresource": "status"},
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": "2026-01-02T03:04:05.678901Z",
    }
    return json.dumps(event, separators=(",", ":")) + "\n"


def test_audit_counts_across_rotated_files_and_ignores_a_line_that_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "audit-2026-01-01T00-00-00.000.log").write_text(_audit_line("1", "operator", "patch"))
    (tmp_path / "audit.log").write_text(
        _audit_line("2", "operator", "watch", stage="ResponseStarted")
        + _audit_line("2", "operator", "watch")
        + _audit_line("3", "operator", "patch", code=409)
        + _audit_line("4", "other-operator", "patch")
        + '{"auditID":"5","user":{"username":"operator"'
    )
    log = tmp_path / "audit.log"
    patch, watch = (AuditKey("operator", verb, "pods", "status") for verb in ("patch", "watch"))
    assert count(read_entries(log, "operator")) == {patch: 2, watch: 1}
    assert count(read_entries(log, "operator"), rejected_only=True) == {patch: 1}
    assert not count(read_entries(log, since=datetime(2026, 1, 3, tzinfo=UTC)))


def test_an_image_is_written_whole_to_a_stream(tmp_path: Path) -> None:
    source = tmp_path / "environment"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / ("long-" * 40)).write_bytes(b"x" * 1500)  # a name too long for one tar header
    (source / "bin" / "python").symlink_to("/elsewhere/python")
    stream = io.BytesIO()
    config = ImageConfig(environment=["PATH=/bin"], user="65532")
    write_image(stream, "localhost/test:1", config, [Layer(source, "opt/engine", {"bin/python": "/usr/bin/python3"})])
    stream.seek(0)
    with tarfile.open(fileobj=stream) as image:
        assert image.getnames() == ["layer-0.tar", "config.json", "manifest.json"]
        member = image.extractfile("layer-0.tar")
        assert member is not None
        with tarfile.open(fileobj=member) as layer:
            assert layer.getnames()[:3] == ["opt", "opt/engine", "opt/engine/bin"]
            assert layer.getmember("opt/engine/bin/python").linkname == "/usr/bin/python3"
            assert layer.getmember(f"opt/engine/bin/{'long-' * 40}").size == 1500
            assert {info.uid for info in layer} == {0}


@pytest.mark.parametrize(
    "text",
    [
        "deb [arch=amd64] http://mirror/debian bookworm main\n",
        "Types: deb\nURIs: http://mirror/debian/\nSuites: bookworm\n",
    ],
    ids=["one line", "deb822"],
)
def test_the_mirror_is_read_from_apts_sources(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("# nothing here\ndeb http://security/debian-security bookworm main\n")
    (tmp_path / "sources.list.d" / "debian.sources").write_text(text)
    assert debian_mirror(tmp_path) == "http://mirror/debian"


def test_the_pinned_versions_can_be_read_from_go_mod() -> None:
    assert kubernetes_version().startswith("v1.36.")
    assert required_version("module x\n\ngo 1.26.0\n") == (1, 26, 0)
    assert {"kube-apiserver", "etcd", "kwok", "helm"} <= set(PROGRAMS)
