"""Which taints of GPU nodes our pods tolerate, and which only the user can tolerate for them.

Every pod of ours tolerates nvidia.com/gpu:NoSchedule. Taints that come and go with a node's health, a drain or an autoscaler's
doings say nothing of what exists, which is what plans rest on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubequant.planning.gpu_table import GPU_RESOURCE
from kubequant.planning.values import Toleration

STANDARD_TOLERATION = Toleration(key=GPU_RESOURCE, operator="Exists", effect="NoSchedule")
_HARD_EFFECTS = frozenset({"NoSchedule", "NoExecute"})
_PASSING = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "node.cilium.io/",
    "karpenter.sh/",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
)


@dataclass(frozen=True)
class Taint:
    """As in a node's spec."""

    key: str
    value: str = ""
    effect: str = ""

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """The scheduler's rule: an empty key with Exists tolerates all, an empty effect any effect, no operator means Equal."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.operator == "Exists":
        return not toleration.key or toleration.key == taint.key
    return toleration.key == taint.key and toleration.value == taint.value


def customary_tolerations(taints: Iterable[Taint]) -> tuple[Toleration, ...]:
    """For taints by the name of the GPU itself, beyond the one that every pod of ours tolerates."""
    beyond = {
        taint.effect
        for taint in taints
        if taint.key == GPU_RESOURCE and taint.effect in _HARD_EFFECTS and not tolerates(STANDARD_TOLERATION, taint)
    }
    return tuple(Toleration(key=GPU_RESOURCE, operator="Exists", effect=effect) for effect in sorted(beyond))


def untolerated(taints: Iterable[Taint], tolerations: Iterable[Toleration] = ()) -> tuple[str, ...]:
    """Taints that keep our pods off for good unless the user tolerates them."""
    known = tuple(tolerations)
    return tuple(
        sorted(
            str(taint)
            for taint in taints
            if taint.effect in _HARD_EFFECTS
            and taint.key != GPU_RESOURCE
            and not taint.key.startswith(_PASSING)
            and not any(tolerates(toleration, taint) for toleration in known)
        )
    )
