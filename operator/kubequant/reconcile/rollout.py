"""Which revision is rolled out, how its pods replace the old ones, and when it has failed. Pure.

A rollout has failed when an update pod reports a permanent cause (three restarts and an exceeded start-up budget are
permanent causes too: `diagnosis`). Then the last revision that was Ready is applied again.

A rollout starts with a surge pod where a GPU looks free; a surge pod that stays unscheduled for a minute, or that a quota
refuses, turns it into an in-place rollout until it ends. Nothing is remembered for that: the Deployment's own strategy
says in which mode a rollout is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubequant.api.conditions import Reason
from kubequant.api.spec import RolloutStrategy
from kubequant.manifests.children import Replacement
from kubequant.reconcile.diagnosis import Finding, diagnose, worst
from kubequant.reconcile.records import DeploymentRecord, PodRecord

SURGE_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Rollout:
    """The pods of a Deployment, seen from the revision that is wanted."""

    wanted_replicas: int
    ready_update: int  # ready pods at the wanted revision
    ready_other: int
    finding: Finding | None  # of the update pods that are not ready
    other_finding: Finding | None  # of the other pods that are not ready
    deployment_failure: str

    @property
    def is_complete(self) -> bool:
        """Ready is said only of pods that are ready at the wanted revision, and when no others are left serving."""
        return self.ready_update >= self.wanted_replicas and not self.ready_other and not self.deployment_failure


def observe(
    pods: Sequence[PodRecord],
    deployment: DeploymentRecord | None,
    revision: str,
    replicas: int,
    start_budget_seconds: int,
    now: float,
) -> Rollout:
    """Looks at all pods of a model."""
    present = [pod for pod in pods if not pod.deleting and pod.phase != "Succeeded"]
    # A pod that was evicted stays as a record; what counts is its replacement, where there is one.
    living = [pod for pod in present if pod.phase != "Failed"] or present
    update = [pod for pod in living if pod.revision == revision]
    others = [pod for pod in living if pod.revision != revision]
    return Rollout(
        wanted_replicas=replicas,
        ready_update=sum(pod.ready for pod in update),
        ready_other=sum(pod.ready for pod in others),
        finding=worst([diagnose(pod, start_budget_seconds, now) for pod in update if not pod.ready]),
        other_finding=worst([diagnose(pod, start_budget_seconds, now) for pod in others if not pod.ready]),
        deployment_failure=deployment.failure if deployment else "",
    )


def refusal_of(failure: str) -> Finding | None:
    """What the condition ReplicaFailure of a Deployment means: its pods are not even created."""
    if not failure:
        return None
    if "exceeded quota" in failure:
        message = f"a quota refuses the pod: {failure}. Raise the quota of the namespace, or lower spec.replicas."
        return Finding(Reason.QUOTA_EXCEEDED, message)
    message = f"the pod is refused: {failure}. Mend spec.pod, or the policy that refuses it."
    return Finding(Reason.POD_REFUSED, message)


def replacement(
    strategy: RolloutStrategy,
    deployment: DeploymentRecord | None,
    target: str,
    pods: Sequence[PodRecord],
    has_room: Callable[[], bool],
    now: float,
) -> Replacement:
    """Surge or in place, for the rollout to `target`. `has_room` tells whether the GPUs of one more pod look free."""
    if strategy is not RolloutStrategy.AUTO:
        return Replacement(strategy.value)
    if deployment is None:
        return Replacement.SURGE
    if deployment.revision != target:
        # Where nothing serves there is nothing to spare, and a pod that fails must give its GPU up first.
        serving = any(pod.ready and pod.revision != target for pod in pods)
        return Replacement.SURGE if serving and has_room() else Replacement.IN_PLACE
    if deployment.in_place or _surge_is_stuck(deployment, target, pods, now):
        return Replacement.IN_PLACE
    return Replacement.SURGE


def seconds_to_patience(pods: Sequence[PodRecord], target: str, now: float) -> float | None:
    """When the oldest unscheduled surge pod will have waited long enough, None where none waits."""
    waiting = [pod for pod in pods if pod.revision == target and not pod.scheduled and not pod.deleting]
    if not waiting or not any(pod.revision != target for pod in pods):
        return None
    return max(0.0, SURGE_PATIENCE_SECONDS - (now - min(pod.created for pod in waiting)))


def _surge_is_stuck(deployment: DeploymentRecord, target: str, pods: Sequence[PodRecord], now: float) -> bool:
    if not any(pod.revision != target and not pod.deleting for pod in pods):
        return False
    quota = "exceeded quota" in deployment.failure
    return quota or any(
        pod.revision == target and not pod.scheduled and now - pod.created >= SURGE_PATIENCE_SECONDS for pod in pods
    )
