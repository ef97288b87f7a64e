"""A real Kubernetes on one machine, without Docker: `python -m tests.localcluster --help`, or from tests:

from tests.localcluster import Cluster

with Cluster.temporary(fleets=["rtx4090"]) as cluster:
    cluster.kubectl("get", "nodes")
"""

from .audit import AuditEntry, AuditKey
from .cluster import Cluster
from .errors import ClusterError, RealNodeUnavailableError
from .failure import Failure, FailureState

__all__ = [
    "AuditEntry",
    "AuditKey",
    "Cluster",
    "ClusterError",
    "Failure",
    "FailureState",
    "RealNodeUnavailableError",
]
