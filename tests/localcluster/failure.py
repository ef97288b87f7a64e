"""Failures that KWOK plays: `Failure(...).annotations()` goes onto a pod template, or onto a living pod.

A pod with the annotation never becomes ready but shows what a kubelet would show; taking the annotation away from a
living pod makes it ready again. `stages/pod-failure.yaml` does it.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

ANNOTATION = "localcluster.kubequant.dev/failure"


class FailureState(StrEnum):
    """What the failing container is seen in."""

    NEVER_READY = "NeverReady"  # runs, but its readiness probe fails
    WAITING = "Waiting"  # never started; reason says why, by default ImagePullBackOff
    TERMINATED = "Terminated"  # has just ended
    CRASH_LOOP = "CrashLoop"  # ended before (lastState.terminated), waits in CrashLoopBackOff


@dataclass(frozen=True)
class Failure:
    """One failing container: the pod's first one, unless `container` names another or an init container."""

    state: FailureState
    reason: str = ""
    message: str = ""
    exitCode: int = 1
    restartCount: int = 0
    container: str = ""

    def annotations(self) -> dict[str, str]:
        """The annotation to put on the pod."""
        given = {key: value for key, value in asdict(self).items() if value != ""}
        return {ANNOTATION: json.dumps(given, sort_keys=True)}
