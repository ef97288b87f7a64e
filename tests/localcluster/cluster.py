"""One local cluster: its folder, its life, and what tests ask of it."""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Self

from . import audit, controlplane, prerequisites
from .api import ApiClient
from .audit import AuditEntry, AuditKey
from .build import ensure_programs
from .containerd import Containerd
from .controlplane import Layout
from .errors import ClusterError
from .fleet import FleetSource, load_fleet
from .guardian import Guardian
from .paths import clusters_root, file_lock
from .processes import Processes
from .progress import say
from .realnode import COMPONENTS, RealNode
from .record import ClusterRecord, cluster_directory, cluster_names, lock_path
from .waiting import wait_until

_START_TIMEOUT_SECONDS = 60
_LOCK_TIMEOUT_SECONDS = 300
_CONTROL_PLANE_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd", "kwok")
# Clients of the API server first: without it they would only retry. etcd last: an API server that has lost its etcd
# hangs in its graceful stop and keeps its port.
_STOP_ORDER = ("kwok", "scheduler", "controller-manager", "api-server", "etcd")


class Cluster:
    """A control plane with KWOK's nodes, and perhaps one real node. Made by `up` or `temporary`, found by `find`."""

    def __init__(self, directory: Path, record: ClusterRecord, report: Callable[[str], None] = say) -> None:
        self.directory = directory
        self.name = record.name
        self.node_address = record.address
        self.server = controlplane.server_url(record.ports)
        self._record = record
        self.report = report
        self._layout = Layout(directory)
        self._processes = Processes(directory)
        self._client: ApiClient | None = None
        self._node = (
            RealNode(self._layout, self._processes, lambda: self._api, record.address) if record.real_node else None
        )

    # --- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def up(
        cls,
        name: str = "default",
        fleets: Iterable[FleetSource] = (),
        real_node: bool = False,
        real_node_file: Path | None = None,
        fresh: bool = False,
        report: Callable[[str], None] = say,
    ) -> Self:
        """Start the cluster called `name`, or adopt it when it runs; `fresh` ends a running one first.

        `real_node_file` says what the real node pretends to have, by default `real-node.yaml`. Whatever goes wrong,
        Ctrl-C included, leaves no process behind. Raises ClusterError; RealNodeUnavailableError where this machine
        cannot run pods (`real_node_blockers` says so beforehand).
        """
        ensure_programs(_CONTROL_PLANE_PROGRAMS, report)
        with file_lock(lock_path(name), f"the cluster {name}", _LOCK_TIMEOUT_SECONDS):
            running = None if fresh else cls.find(name, report)
            if running is not None and running.is_running():
                if real_node and not running._record.real_node:
                    raise ClusterError(
                        f"the cluster {name} runs without a real node: `down` it first, or give `--fresh`"
                    )
                cluster = running
            else:
                cls._clear(name, report)
                cluster = cls._start(name, real_node, real_node_file, report)
        for fleet in fleets:
            cluster.add_fleet(fleet)
        return cluster

    @classmethod
    @contextlib.contextmanager
    def temporary(
        cls,
        fleets: Iterable[FleetSource] = (),
        real_node: bool = False,
        real_node_file: Path | None = None,
        report: Callable[[str], None] = say,
    ) -> Iterator[Self]:
        """A cluster with a name of its own for a `with` block; it ends with this process even when that is killed."""
        name = f"tmp-{secrets.token_hex(4)}"
        with Guardian(clusters_root() / name):
            try:
                yield cls.up(name, fleets, real_node, real_node_file, report=report)
            finally:
                cls._clear(name, report)
                lock_path(name).unlink()  # nobody else knows this name

    @classmethod
    def find(cls, name: str, report: Callable[[str], None] = say) -> Self | None:
        """The cluster called `name`, running or not; None when there is none."""
        directory = cluster_directory(name)
        try:
            return cls(directory, ClusterRecord.read(directory), report)
        except FileNotFoundError:
            return None

    @classmethod
    def _start(cls, name: str, real_node: bool, real_node_file: Path | None, report: Callable[[str], None]) -> Self:
        directory = cluster_directory(name)
        with Guardian(directory):
            cluster = cls(directory, ClusterRecord.reserve(name, real_node), report)
            try:
                if cluster._node is not None:
                    cluster._node.prepare(report)  # first: it may be impossible, which takes no time to find out
                cluster._start_control_plane()
                if cluster._node is not None:
                    cluster._node.start(real_node_file, report)
            except BaseException:
                report(f"starting {name} failed: ending what was started; logs stay in {directory / 'log'}")
                cluster._stop_all()
                raise
        return cluster

    @classmethod
    def _clear(cls, name: str, report: Callable[[str], None]) -> None:
        """Remove what an earlier cluster of this name has left."""
        if (earlier := cls.find(name, report)) is not None:
            earlier.down()
        shutil.rmtree(cluster_directory(name), ignore_errors=True)

    def _start_control_plane(self) -> None:
        controlplane.write_files(self._layout, self._record.ports, self.node_address)
        self._processes.start("etcd", controlplane.etcd(self._binaries()["etcd"], self._layout, self._record.ports))
        self.start_api_server()
        self._wait(
            lambda: self._api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None,
            "the default ServiceAccount", "controller-manager",
        )  # fmt: skip

    def _restart_controllers(self) -> None:
        # A new kwok calls itself by a new name and would wait 40 s for the leases of its predecessor to run out.
        self._api.delete("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        for name, program, command in (
            ("controller-manager", "kube-controller-manager", controlplane.controller_manager),
            ("scheduler", "kube-scheduler", controlplane.scheduler),
            ("kwok", "kwok", controlplane.kwok),
        ):
            self._processes.stop(name, grace=3)
            self._processes.start(name, command(self._binaries()[program], self._layout, self._record.ports))

    def down(self) -> None:
        """End every process of the cluster and remove its folder."""
        self._stop_all()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stop_all(self) -> None:
        if self._node is not None:
            self._node.stop()
        for name in _STOP_ORDER:
            self._processes.stop(name)

    def is_running(self) -> bool:
        """Whether every component is alive and the API server is ready."""
        return all(self.component_pids().values()) and self._api.is_ready()

    def component_pids(self) -> dict[str, int | None]:
        """Process id of each component, None for one that is not alive."""
        return {
            name: self._processes.pid(name) for name in [*reversed(_STOP_ORDER), *(COMPONENTS if self._node else ())]
        }

    # --- the API server -----------------------------------------------------------------------------------------

    def start_api_server(self) -> None:
        """Start the API server, wait until it is ready, and let the controllers begin anew; no-op while it runs.

        Controllers that have met a dead server once or twice wait up to half a minute before they look again.
        """
        if self._processes.is_alive("api-server"):
            return
        bind_address = "0.0.0.0" if self._record.real_node else "127.0.0.1"
        binary = self._binaries()["kube-apiserver"]
        self._processes.start(
            "api-server",
            controlplane.api_server(binary, self._layout, self._record.ports, bind_address, self.node_address),
        )
        self._wait(self._api.is_ready, "the API server's /readyz", "api-server")
        self._restart_controllers()

    def stop_api_server(self) -> None:
        """Stop the API server; its state stays in etcd."""
        self._processes.stop("api-server", grace=30)

    def restart_api_server(self) -> None:
        """Stop the API server and start it again at the same address."""
        self.stop_api_server()
        self.start_api_server()

    # --- the real node ------------------------------------------------------------------------------------------

    @staticmethod
    def real_node_blockers() -> list[str]:
        """What this machine lacks for a real node, and what that costs; empty when it can run."""
        return prerequisites.blockers()

    @property
    def containerd(self) -> Containerd:
        """The real node's. Raises ClusterError when the cluster has none."""
        if self._node is None:
            raise ClusterError(f"the cluster {self.name} has no real node: start it with `--real-node`")
        return self._node.containerd

    # --- access -------------------------------------------------------------------------------------------------

    @property
    def programs(self) -> Path:
        """The folder of kubectl and the control plane's own programs, for a person's PATH."""
        return self._binaries()["kubectl"].parent

    @property
    def kubeconfig(self) -> Path:
        """Of the user `admin`, who may do everything."""
        return self._layout.kubeconfig("admin")

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True, timeout: float = 60) -> str:
        """Run kubectl as admin and return what it printed.

        Raises ClusterError with kubectl's own words when it fails and `check` is set; otherwise they are returned.
        """
        command = [self._binaries()["kubectl"], "--kubeconfig", self.kubeconfig, *args]
        result = subprocess.run(
            [str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=timeout,
            env={**os.environ, "KUBECACHEDIR": str(self.directory / "kubectl-cache")},
        )  # fmt: skip
        if result.returncode != 0 and check:
            raise ClusterError(f"kubectl {' '.join(args)} failed ({result.returncode}): {result.stderr.strip()}")
        return result.stdout if result.returncode == 0 else result.stdout + result.stderr

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a day's token of a ServiceAccount that exists."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration", "24h").strip()
        user = f"serviceaccount-{namespace}-{name}"
        return controlplane.write_client(self._layout, self._record.ports, user, token, namespace)

    # --- nodes --------------------------------------------------------------------------------------------------

    def add_fleet(self, source: FleetSource) -> list[str]:
        """Make a fleet's nodes (or bring them up to date), wait until they are Ready, and return their names."""
        nodes = load_fleet(source).nodes(tainted=self._record.real_node)
        names = [node["metadata"]["name"] for node in nodes]
        for name, node in zip(names, nodes, strict=True):
            self._api.apply(f"/api/v1/nodes/{name}", node)
            # The first apply sets the status of a new node only.
            self._api.apply(f"/api/v1/nodes/{name}/status", node)
        self._wait(lambda: set(names) <= self._ready_nodes(), f"{len(names)} KWOK nodes to be Ready", "kwok")
        return names

    def remove_nodes(self, selector: str) -> None:
        """Remove the nodes that a label selector matches, such as `type=kwok`."""
        self._api.delete("/api/v1/nodes", labelSelector=selector)

    def _ready_nodes(self) -> set[str]:
        nodes = self._api.get("/api/v1/nodes") or {"items": []}
        return {
            node["metadata"]["name"]
            for node in nodes["items"]
            for condition in node["status"].get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] == "True"
        }

    # --- the audit log ------------------------------------------------------------------------------------------

    def audit_entries(self, user_prefix: str | None = None, since: datetime | None = None) -> Iterator[AuditEntry]:
        """The requests that the API server has answered, rejected ones included, oldest first."""
        return audit.read_entries(self._layout.audit_log, user_prefix, since)

    def audit_counts(
        self,
        user_prefix: str | None = None,
        verbs: Collection[str] | None = None,
        since: datetime | None = None,
        rejected_only: bool = False,
    ) -> Counter[AuditKey]:
        """Requests by user, verb, resource and subresource; `rejected_only` counts those with status 400 and above."""
        return audit.count(self.audit_entries(user_prefix, since), verbs, rejected_only)

    # --- inner --------------------------------------------------------------------------------------------------

    @property
    def _api(self) -> ApiClient:
        if self._client is None:
            self._client = ApiClient(self.kubeconfig)
        return self._client

    def _binaries(self) -> dict[str, Path]:
        return ensure_programs(_CONTROL_PLANE_PROGRAMS, self.report)

    def _wait(self, condition: Callable[[], bool], what: str, component: str) -> None:
        wait_until(
            condition, what, _START_TIMEOUT_SECONDS, self._processes.log(component),
            alive=lambda: self._processes.is_alive(component),
        )  # fmt: skip


def all_clusters() -> list[Cluster]:
    """Every cluster that has a folder, running or not."""
    return [cluster for name in cluster_names() if (cluster := Cluster.find(name)) is not None]
