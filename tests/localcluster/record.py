"""Where a cluster lies, and what is remembered of it between commands."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from .controlplane import Ports
from .errors import ClusterError
from .network import free_ports, host_address
from .paths import clusters_root, file_lock

_FILE = "cluster.json"


@dataclass(frozen=True)
class ClusterRecord:
    """What `cluster.json` remembers of a cluster."""

    name: str
    ports: Ports
    address: str
    real_node: bool

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The record in a cluster's folder. Raises FileNotFoundError when there is none."""
        document = json.loads((directory / _FILE).read_text())
        return cls(**{**document, "ports": Ports(**document["ports"])})

    @classmethod
    def reserve(cls, name: str, real_node: bool) -> Self:
        """Write down a new cluster with ports that no other cluster has, running or just starting."""
        with file_lock(clusters_root() / "ports.lock", "the choice of ports", timeout=30):
            taken = {number for other in cluster_names() for number in _ports(other)}
            record = cls(name, Ports(*free_ports(6, taken)), host_address(), real_node)
            directory = cluster_directory(name)
            directory.mkdir(parents=True, exist_ok=True)
            # In one step: `status` may be reading.
            unfinished = directory / f".{_FILE}.unfinished"
            unfinished.write_text(json.dumps(asdict(record), indent=2))
            unfinished.replace(directory / _FILE)
        return record


def cluster_directory(name: str) -> Path:
    """The folder of a cluster. Raises ClusterError for a name that is no file name."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise ClusterError(f"cluster name {name!r}: lower-case letters, digits and dashes, 40 at most")
    return clusters_root() / name


def lock_path(name: str) -> Path:
    """The file that is locked while a cluster is started or adopted."""
    return clusters_root() / f"{name}.lock"


def cluster_names() -> list[str]:
    """Every cluster that has a folder, running or not."""
    return sorted(path.parent.name for path in clusters_root().glob(f"*/{_FILE}"))


def _ports(name: str) -> list[int]:
    try:
        return ClusterRecord.read(cluster_directory(name)).ports.numbers()
    except FileNotFoundError:  # ended in this moment
        return []
