"""A real node: containerd, kubelet and kube-proxy on this machine, with GPUs that exist in its labels only.

kube-proxy's iptables chains and the bridge belong to the whole machine: one real node at a time, under a lock that
the kernel drops when containerd ends.
"""

import contextlib
import fcntl
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from .api import ApiClient
from .build import ensure_programs
from .cgroups import make_cgroup, remove_cgroup
from .containerd import BRIDGE, POD_CIDR, Containerd
from .controlplane import REAL_NODE, Layout
from .errors import ClusterError
from .fleet import NodeGroup, parse_group
from .paths import PACKAGE
from .prerequisites import ensure_prerequisites
from .processes import Processes
from .waiting import wait_until

COMPONENTS = ("containerd", "kubelet", "kube-proxy")
_LOCK = Path("/run/lock/kubequant-real-node.lock")
_START_TIMEOUT_SECONDS = 60
_PODS_END_TIMEOUT_SECONDS = 45


class RealNode:
    """The real node of one cluster."""

    def __init__(self, layout: Layout, processes: Processes, api: Callable[[], ApiClient], address: str) -> None:
        self._layout = layout
        self._processes = processes
        self._api = api
        self._address = address
        self._directory = layout.directory / "node"
        self.containerd = Containerd(self._directory, processes)

    def prepare(self, report: Callable[[str], None]) -> None:
        """Install what is missing, and see that the machine's one real node is free.

        Raises RealNodeUnavailableError where this machine cannot run pods, ClusterError where another cluster has it.
        """
        ensure_prerequisites(report)
        with _LOCK.open("a+") as lock:
            self._take(lock)

    def start(self, description: Path | None, report: Callable[[str], None]) -> None:
        """Start the node and wait until it is Ready and advertises its GPUs.

        `description` is a YAML file like `real-node.yaml`, the default. Raises ClusterError.
        """
        group = _read_description(description or PACKAGE / "real-node.yaml")
        binaries = ensure_programs(["kubelet", "kube-proxy"], report)
        self._directory.mkdir(parents=True, exist_ok=True)
        with _LOCK.open("a+") as lock:
            self._take(lock)
            self.containerd.start(lock)
        self._start_kubelet(binaries["kubelet"])
        self._start_kube_proxy(binaries["kube-proxy"])
        self._wait(self._is_ready, f"the node {REAL_NODE} to be Ready", "kubelet")
        self._advertise(group)

    def stop(self) -> None:
        """Pods first, while there is somebody to end them; then the node, and what it left on the machine."""
        if self._processes.is_alive("kubelet"):
            self._end_pods()
        self._processes.stop("kubelet")
        proxy_was_started = "kube-proxy" in self._processes.names()
        self._processes.stop("kube-proxy")
        self.containerd.stop()
        if proxy_was_started:
            self._clean_machine()

    def _take(self, lock: IO[str]) -> None:
        """Lock the machine's one real node and write down who has it."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise ClusterError(
                f"this machine's one real node belongs to the cluster in {holder}: end it first, with "
                f"`python -m tests.localcluster down --name {Path(holder).name}`"
            ) from None
        lock.truncate(0)
        lock.write(str(self._layout.directory))
        lock.flush()

    def _start_kubelet(self, binary: Path) -> None:
        config = self._directory / "kubelet.yaml"
        config.write_text(yaml.safe_dump(self._kubelet_config(make_cgroup(f"kubequant-{REAL_NODE}"))))
        root = self._directory / "kubelet"
        self._processes.start(
            "kubelet",
            [
                binary, "--config", config, "--kubeconfig", self._layout.kubeconfig("kubelet"),
                "--hostname-override", REAL_NODE, "--node-ip", self._address,
                "--root-dir", root, "--cert-dir", root / "pki",
            ],
        )  # fmt: skip

    def _kubelet_config(self, cgroup_root: str) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._layout.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup_root,
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "failCgroupV1": False,
            "makeIPTablesUtilChains": False,  # nobody would take them away afterwards
            "failSwapOn": False,
            # There is no cluster DNS. This address refuses at once, where one that is not there would time out; and
            # without any the kubelet writes an Event MissingClusterDNS for each pod.
            "clusterDNS": [self._address],
            "resolvConf": "/etc/resolv.conf",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            # Images are meant to outlive the cluster, and no registry could give them back.
            "imageGCHighThresholdPercent": 100,
        }

    def _start_kube_proxy(self, binary: Path) -> None:
        # iptables mode: Debian 12's nft is too old for the nftables mode. conntrack's limit is the host's business.
        self._processes.start(
            "kube-proxy",
            [
                binary, "--kubeconfig", self._layout.kubeconfig("kube-proxy"), "--proxy-mode", "iptables",
                "--hostname-override", REAL_NODE, "--cluster-cidr", POD_CIDR, "--conntrack-max-per-core", "0",
                "--metrics-bind-address", "127.0.0.1:10249", "--healthz-bind-address", "127.0.0.1:10256",
            ],
        )  # fmt: skip

    def _advertise(self, group: NodeGroup) -> None:
        gpus = {"nvidia.com/gpu": str(group.gpus.count)} if group.gpus else {}
        resources = {**gpus, **group.resources}
        labels = {**(group.gpus.labels() if group.gpus else {}), **group.labels}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": REAL_NODE}}
        path = f"/api/v1/nodes/{REAL_NODE}"
        metadata = {"name": REAL_NODE, "labels": {key: value for key, value in labels.items() if value is not None}}
        self._api().apply(path, {**node, "metadata": metadata})
        self._api().apply(f"{path}/status", {**node, "status": {"capacity": resources, "allocatable": resources}})

    def _is_ready(self) -> bool:
        node = self._api().get(f"/api/v1/nodes/{REAL_NODE}")
        conditions = node["status"].get("conditions", []) if node else []
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def _end_pods(self) -> None:
        """Ask for the end of the node's pods and wait for it; what does not end is killed by containerd's stop."""
        selector = {"fieldSelector": f"spec.nodeName={REAL_NODE}"}
        # Workloads would make new pods as fast as these end.
        with contextlib.suppress(ClusterError):
            self._api().patch(f"/api/v1/nodes/{REAL_NODE}", {"spec": {"unschedulable": True}})
            pods = (self._api().get("/api/v1/pods", **selector) or {"items": []})["items"]
            for pod in pods:
                path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
                self._api().delete(path, gracePeriodSeconds="1")
            self._wait(
                lambda: not (self._api().get("/api/v1/pods", **selector) or {"items": []})["items"],
                f"{len(pods)} pods to end", "kubelet", _PODS_END_TIMEOUT_SECONDS,
            )  # fmt: skip

    def _clean_machine(self) -> None:
        proxy = ensure_programs(["kube-proxy"])["kube-proxy"]
        for command in ([str(proxy), "--cleanup"], ["ip", "link", "delete", BRIDGE]):
            subprocess.run(command, capture_output=True, timeout=60)
        for mount in sorted(_mounts_below(self._directory), reverse=True):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, timeout=30)
        remove_cgroup(f"kubequant-{REAL_NODE}")

    def _wait(
        self, condition: Callable[[], bool], what: str, component: str, timeout: float = _START_TIMEOUT_SECONDS
    ) -> None:
        wait_until(
            condition, what, timeout, self._processes.log(component), alive=lambda: self._processes.is_alive(component)
        )


def _mounts_below(directory: Path) -> list[str]:
    points = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    return [point for point in points if point.startswith(f"{directory}/")]


def _read_description(path: Path) -> NodeGroup:
    try:
        document: Mapping[str, Any] = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ClusterError(f"the real node's description cannot be read: {error}") from error
    return parse_group({"name": REAL_NODE, **document}, str(path))
