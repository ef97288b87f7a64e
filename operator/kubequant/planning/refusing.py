"""How a rule says no: its name, its reason for programs, and a sentence with the number that decided."""

from __future__ import annotations

from collections.abc import Callable

from kubequant.planning.candidates import Candidate
from kubequant.planning.values import Refusal

Rule = Callable[[Candidate], Refusal | None]

REASONS = {
    "gpu.products": "NotWanted",
    "gpu.minMemory": "NotWanted",
    "gpu.minComputeCapability": "NotWanted",
    "gpu.perReplica": "NotWanted",
    "capabilityFloor": "CapabilityTooLow",
    "kernel": "NoKernel",
    "dtype": "DtypeNotPossible",
    "attention": "NoAttentionBackend",
    "kvCacheDtype": "KvCacheDtypeNotPossible",
    "slice": "SliceCannotBeSpanned",
    "multiNode": "NeedsLeaderWorkerSet",
    "heads": "NotDivisible",
    "kvHeads": "NotDivisible",
    "states": "NotDivisible",
    "visionHeads": "NotDivisible",
    "vocabulary": "NotDivisible",
    "intermediate": "NotDivisible",
    "groupSize": "NotDivisible",
    "block": "NotDivisible",
    "layers": "NotDivisible",
    "weights": "WeightsDoNotFit",
    "loadPeak": "LoadPeakDoesNotFit",
    "context": "ContextDoesNotFit",
    "demand": "DemandDoesNotFit",
    "slower": "SlowerThanAlternative",
    "smallModel": "QualityTooLow",
    "qualityGate": "NeedsQualityGate",
    "checkpoint": "CannotBeMade",
    "sameScheme": "AnotherGoesBefore",
    "scheme": "NotWanted",
}
"""What each rule's refusal is called for programs."""


def refusal(candidate: Candidate, rule: str, message: str, **numbers: int) -> Refusal:
    """A refusal of this candidate, with its reason. The rule must be in REASONS."""
    return Refusal(
        gpu=candidate.gpu.product,
        gpus=candidate.gpus,
        scheme=candidate.scheme,
        rule=rule,
        message=f"{candidate.name}{_made(candidate)}: {message}",
        numbers=tuple(numbers.items()),
        reason=REASONS[rule],
        checkpoint=candidate.checkpoint,
    )


def _made(candidate: Candidate) -> str:
    """Of several schemes of one model it must be said which was tried."""
    if candidate.checkpoint:
        return f" with {candidate.checkpoint} ({candidate.scheme})"
    return f" in {candidate.scheme}" if candidate.facts.predicted else ""
