"""The control plane's command lines: etcd, API server, controller manager, scheduler and kwok."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .paths import PACKAGE
from .pki import CertificateAuthority, KeyPair, kubeconfig, write_service_account_keys

SERVICE_CIDR = "10.0.0.0/16"
SERVICE_ADDRESS = "10.0.0.1"  # of the Service `kubernetes`: the first of SERVICE_CIDR
# kwok's default lies inside the Service range: a fake pod's address could be a Service's.
FAKE_POD_CIDR = "10.64.0.0/12"
REAL_NODE = "real-0"
FAKE_NODE_LABEL = "type=kwok"

Command = list[str | Path]

_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: [/healthz*, /livez*, /readyz*]
- level: Metadata
"""


@dataclass(frozen=True)
class Ports:
    """TCP ports of one control plane, all of them on loopback unless a real node needs the API server."""

    etcd_client: int
    etcd_peer: int
    api_server: int
    controller_manager: int
    scheduler: int
    kwok: int

    def numbers(self) -> list[int]:
        return list(asdict(self).values())


@dataclass(frozen=True)
class Layout:
    """Files of one control plane below its folder."""

    directory: Path

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def audit_log(self) -> Path:
        return self.directory / "audit" / "audit.log"

    @property
    def audit_policy(self) -> Path:
        return self.directory / "audit" / "policy.yaml"

    def kubeconfig(self, user: str) -> Path:
        return self.directory / "kubeconfig" / f"{user}.yaml"


def write_files(layout: Layout, ports: Ports, address: str) -> None:
    """Certificates, kubeconfigs and the audit policy; `address` is what pods reach this host by."""
    authority = CertificateAuthority(layout.pki)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", SERVICE_ADDRESS]
    authority.issue("api-server", "kube-apiserver", alternatives=[*names, address])
    authority.issue("kubelet-client", "kubelet-client", "system:masters")
    write_service_account_keys(layout.pki)
    layout.audit_policy.parent.mkdir(parents=True, exist_ok=True)
    layout.audit_policy.write_text(_AUDIT_POLICY)
    users = {
        "admin": ("admin", "system:masters"),
        "kwok": ("kwok", "system:masters"),
        "kube-proxy": ("system:kube-proxy", ""),
        "kubelet": (f"system:node:{REAL_NODE}", "system:nodes"),
        "controller-manager": ("system:kube-controller-manager", ""),
        "scheduler": ("system:kube-scheduler", ""),
    }
    for user, (common_name, organisation) in users.items():
        write_client(layout, ports, user, authority.issue(user, common_name, organisation))


def write_client(
    layout: Layout, ports: Ports, user: str, credential: KeyPair | str, namespace: str = "default"
) -> Path:
    """Write a kubeconfig for `user` and return its path."""
    path = layout.kubeconfig(user)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(kubeconfig(server_url(ports), layout.pki / "ca.crt", credential, namespace))
    return path


def server_url(ports: Ports) -> str:
    return f"https://127.0.0.1:{ports.api_server}"


def etcd(binary: Path, layout: Layout, ports: Ports) -> Command:
    client = f"http://127.0.0.1:{ports.etcd_client}"
    return [
        binary, "--data-dir", layout.directory / "etcd", "--unsafe-no-fsync", "--log-level", "error",
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", f"http://127.0.0.1:{ports.etcd_peer}",
    ]  # fmt: skip


def api_server(binary: Path, layout: Layout, ports: Ports, bind_address: str, address: str) -> Command:
    pki = layout.pki
    return [
        binary, "--etcd-servers", f"http://127.0.0.1:{ports.etcd_client}", "--secure-port", str(ports.api_server),
        "--bind-address", bind_address, "--advertise-address", address,
        "--tls-cert-file", pki / "api-server.crt", "--tls-private-key-file", pki / "api-server.key",
        "--client-ca-file", pki / "ca.crt", "--authorization-mode", "Node,RBAC",
        "--service-account-issuer", "https://kubernetes.default.svc",
        "--service-account-key-file", pki / "service-account.pub",
        "--service-account-signing-key-file", pki / "service-account.key",
        "--service-cluster-ip-range", SERVICE_CIDR, "--allow-privileged=true",
        "--kubelet-client-certificate", pki / "kubelet-client.crt", "--kubelet-client-key", pki / "kubelet-client.key",
        # So that `kubectl logs` and `exec` need no name resolution.
        "--kubelet-preferred-address-types", "InternalIP",
        "--audit-policy-file", layout.audit_policy, "--audit-log-path", layout.audit_log,
        # Open watches would otherwise hold up a graceful stop for a minute.
        "--shutdown-watch-termination-grace-period", "1s",
    ]  # fmt: skip


def controller_manager(binary: Path, layout: Layout, ports: Ports) -> Command:
    return [
        *_controller(binary, layout.kubeconfig("controller-manager"), ports.controller_manager),
        "--service-account-private-key-file", layout.pki / "service-account.key",
        "--root-ca-file", layout.pki / "ca.crt", "--use-service-account-credentials=true",
    ]  # fmt: skip


def scheduler(binary: Path, layout: Layout, ports: Ports) -> Command:
    return _controller(binary, layout.kubeconfig("scheduler"), ports.scheduler)


def kwok(binary: Path, layout: Layout, ports: Ports) -> Command:
    stages = sorted((PACKAGE / "stages").glob("*.yaml"))
    configs = [part for stage in stages for part in ("--config", stage)]
    return [
        binary, "--kubeconfig", layout.kubeconfig("kwok"), "--manage-nodes-with-label-selector", FAKE_NODE_LABEL,
        "--cidr", FAKE_POD_CIDR, "--node-lease-duration-seconds", "40",
        "--server-address", f"127.0.0.1:{ports.kwok}", *configs,
    ]  # fmt: skip


def _controller(binary: Path, kubeconfig_path: Path, port: int) -> Command:
    configs: Mapping[str, Path] = dict.fromkeys(
        ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"), kubeconfig_path
    )
    flags = [part for pair in configs.items() for part in pair]
    return [binary, *flags, "--leader-elect=false", "--bind-address", "127.0.0.1", "--secure-port", str(port)]
