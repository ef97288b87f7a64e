"""A decision: what a ControllerRevision holds, and which of those that exist is wanted now.

The algorithm, level-triggered: the wanted revision is the one whose two hashes equal those of the spec as written. If
there is none, one with the same planning inputs gives its plan and only the pod template is rendered again. If there is
none of those either, it is planned. Nothing else (a restart, a newer operator, replicas) ever leads to planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from kubequant.api.spec import Pod, QuantizedModelSpec
from kubequant.api.status import MAX_NOTES
from kubequant.manifests.cache import cache_of
from kubequant.manifests.names import Owner, files_name
from kubequant.manifests.pod import READ_WRITE_ONCE, build_pod_template
from kubequant.manifests.recipe import EngineSettings, Recipe
from kubequant.planning.facts_json import packed_facts
from kubequant.planning.values import GpuOrigin, ModelFacts, Plan
from kubequant.reconcile.inputs import DEFAULT_REVISION, VolumeSource, claim_of, source_of
from kubequant.reconcile.plan_status import plan_status
from kubequant.reconcile.records import RevisionRecord

DATA_VERSION = 1
KEPT_REVISIONS = 5
MIB = 2**20


class Outcome(StrEnum):
    """The verdict on a revision, written once. Failed is followed by `: reason: message`."""

    READY = "Ready"
    FAILED = "Failed"


@dataclass(frozen=True)
class Decision:
    """What a ControllerRevision holds as `data`. `plan` is as status shows it; `template` is applied as stored."""

    inputs_hash: str
    pod_hash: str
    repository: str
    commit: str
    facts: str  # what was planned on (planning.facts_json.packed_facts)
    plan: dict[str, Any]
    recipe: Recipe
    template: dict[str, Any]
    discovery: dict[str, Any] | None = None  # as status shows it; None where nobody looked
    revision: str = ""  # branch or tag that `commit` stood for; nothing where a commit, or a volume, was named

    @property
    def is_predicted(self) -> bool:
        """Whether the checkpoint that was planned with does not exist."""
        return bool(self.plan.get("predicted"))

    @property
    def found_for(self) -> str:
        """The model that discovery found this checkpoint for; nothing where the checkpoint was named."""
        base = str(self.discovery.get("base", "")) if self.discovery else ""
        return base if base != self.repository else ""

    def to_data(self) -> dict[str, Any]:
        return {
            "version": DATA_VERSION,
            "inputsHash": self.inputs_hash,
            "podHash": self.pod_hash,
            "repository": self.repository,
            "commit": self.commit,
            "facts": self.facts,
            "plan": self.plan,
            "recipe": self.recipe.to_json(),
            "template": self.template,
            "revision": self.revision,
            **({"discovery": self.discovery} if self.discovery else {}),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Decision:
        return cls(
            inputs_hash=data["inputsHash"],
            pod_hash=data["podHash"],
            repository=data["repository"],
            commit=data["commit"],
            facts=data["facts"],
            plan=data["plan"],
            recipe=Recipe.from_json(data["recipe"]),
            template=data["template"],
            discovery=data.get("discovery"),
            revision=data.get("revision", ""),
        )


def decide(
    owner: Owner,
    spec: QuantizedModelSpec,
    hashes: tuple[str, str],
    facts: ModelFacts,
    plan: Plan,
    engine: EngineSettings,
    files: dict[str, str],
    discovery: dict[str, Any] | None = None,
) -> Decision:
    """The decision that follows from a plan. `facts` are of the checkpoint taken; `hashes` those of the planning inputs and of `spec.pod`."""
    secret = spec.model.token_secret_ref
    recipe = Recipe(
        repository=plan.repository,
        commit=plan.commit,
        gpu_product=plan.gpu.product,
        gpu_memory_mib=plan.gpu.label_memory_bytes // MIB,
        gpus=plan.gpus_per_replica,
        gpu_resource=plan.gpu.resource,
        gpu_selector=plan.gpu.selector,
        gpu_memory_labelled=plan.gpu.origin is GpuOrigin.LABELS,
        tolerations=plan.gpu.tolerations,
        arguments=plan.arguments,
        weight_bytes=plan.weight_bytes,
        download_bytes=plan.download_bytes,
        token_secret=(secret.name, secret.key) if secret else None,
        engine=engine,
        claim=claim_of(source_of(spec)),
        checksums=facts.checksums,
    )
    recipe = replace(recipe, cache=cache_of(recipe))
    return Decision(
        inputs_hash=hashes[0],
        pod_hash=hashes[1],
        repository=plan.repository,
        commit=plan.commit,
        facts=packed_facts(facts),
        plan=_noted(plan_status(plan, engine), recipe),
        recipe=recipe,
        template=_template(owner, spec, recipe, files),
        discovery=discovery,
        revision=_tracked_revision(spec, plan),
    )


def _noted(plan: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """With what the configured volume means for the replicas."""
    if recipe.cache is None or recipe.cache.access_mode != READ_WRITE_ONCE:
        return plan
    note = (
        f"The weights are kept in the volume {recipe.cache.claim}, which one node mounts: all replicas share that node."
    )
    return {**plan, "notes": [*plan.get("notes", [])[: MAX_NOTES - 1], note]}


def _tracked_revision(spec: QuantizedModelSpec, plan: Plan) -> str:
    source = source_of(spec)
    if isinstance(source, VolumeSource):
        return ""
    revision = source.revision if source.repository == plan.repository else DEFAULT_REVISION
    return "" if revision == plan.commit else revision


def with_pod(
    owner: Owner, decision: Decision, spec: QuantizedModelSpec, hashes: tuple[str, str], files: dict[str, str]
) -> Decision:
    """The same plan with the template of a changed `spec.pod`."""
    template = _template(owner, spec, decision.recipe, files)
    return replace(decision, inputs_hash=hashes[0], pod_hash=hashes[1], template=template)


def _template(owner: Owner, spec: QuantizedModelSpec, recipe: Recipe, files: dict[str, str]) -> dict[str, Any]:
    return build_pod_template(owner, recipe, spec.pod or Pod(), files_name(owner, files))


def wanted(revisions: Sequence[RevisionRecord], hashes: tuple[str, str]) -> RevisionRecord | None:
    """The newest revision of exactly these inputs."""
    return _newest(revision for revision in revisions if (revision.inputs_hash, revision.pod_hash) == hashes)


def same_plan(revisions: Sequence[RevisionRecord], inputs: str) -> RevisionRecord | None:
    """The newest revision of these planning inputs, whatever its pod."""
    return _newest(revision for revision in revisions if revision.inputs_hash == inputs)


def last_ready(revisions: Sequence[RevisionRecord], besides: str = "") -> RevisionRecord | None:
    """The newest revision that was Ready once, `besides` one."""
    return _newest(revision for revision in revisions if revision.outcome == Outcome.READY and revision.name != besides)


def failure_of(revision: RevisionRecord) -> tuple[str, str] | None:
    """Reason and message of a revision whose verdict is Failed."""
    verdict, _, cause = revision.outcome.partition(": ")
    if verdict != Outcome.FAILED:
        return None
    reason, _, message = cause.partition(": ")
    return reason, message


def superfluous(revisions: Sequence[RevisionRecord], needed: set[str]) -> list[RevisionRecord]:
    """What goes beyond the five newest, oldest first; those needed stay."""
    excess = len(revisions) - KEPT_REVISIONS
    candidates = [revision for revision in revisions if revision.name not in needed]
    return candidates[: max(0, excess)]


def _newest(revisions: Any) -> RevisionRecord | None:
    return max(revisions, key=lambda revision: (revision.number, revision.name), default=None)
