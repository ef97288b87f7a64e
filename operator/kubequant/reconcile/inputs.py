"""From what the user wrote to what decisions rest on: the hash of the planning inputs, and the intent with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from kubequant.api.spec import CheckpointSource, Discovery, ModelSource, QuantizedModelSpec, Scheme
from kubequant.manifests.names import digest
from kubequant.planning.values import ComputeCapability, Intent, KvCacheDtype, Objective

DEFAULT_REVISION = "main"
DEFAULT_CONCURRENT_REQUESTS = 16
PLANNING_INPUTS = ("model", "quantization", "serving", "gpu")


def inputs_hash(spec: Mapping[str, Any], replan: str) -> str:
    """Of the planning inputs as written, so that neither a newer CRD nor a newer operator makes a new plan."""
    return digest({"replan": replan, **{name: spec[name] for name in PLANNING_INPUTS if name in spec}}, 16)


def pod_hash(spec: Mapping[str, Any]) -> str:
    """Of `spec.pod` as written: it makes a new revision with the same plan."""
    return digest(spec.get("pod") or {}, 16)


@dataclass(frozen=True)
class RepositorySource:
    """A repository at a branch, tag or commit."""

    repository: str
    revision: str


@dataclass(frozen=True)
class VolumeSource:
    """A folder of a PersistentVolumeClaim in the model's namespace; `path` is relative, "" its top."""

    claim: str
    path: str

    @property
    def name(self) -> str:
        """What the model is called: the folder's name, else the claim's."""
        return self.path.rpartition("/")[2] or self.claim


Source = RepositorySource | VolumeSource


def source_of(spec: QuantizedModelSpec) -> Source:
    """Where what was asked for lies: the checkpoint that is named, else the model."""
    checkpoint = spec.quantization and spec.quantization.checkpoint
    return _source(checkpoint or spec.model)


def base_of(spec: QuantizedModelSpec) -> Source:
    """Where the model itself lies, whatever checkpoint is named."""
    return _source(spec.model)


def discovery_is_wanted(spec: QuantizedModelSpec) -> bool:
    """Whether published checkpoints may be looked for: of a repository of which no checkpoint is named.

    A revision of its own is a choice: what others published was made of some revision, and none of them says of which.
    """
    quantization = spec.quantization
    if (spec.model.revision or DEFAULT_REVISION) != DEFAULT_REVISION:
        return False
    if quantization and (quantization.checkpoint or quantization.discovery is Discovery.DISABLED):
        return False
    unquantized = quantization is not None and quantization.scheme is Scheme.UNQUANTIZED
    return spec.model.repository is not None and not unquantized


def _source(source: ModelSource | CheckpointSource) -> Source:
    claim = source.persistent_volume_claim
    if claim:
        return VolumeSource(claim.claim_name, claim.path or "")
    assert source.repository is not None, "the API server takes exactly one of the two"
    return RepositorySource(source.repository, source.revision or DEFAULT_REVISION)


def claim_of(source: Source) -> tuple[str, str] | None:
    """Name and folder of the claim that pods mount; None where they download."""
    return (source.claim, source.path) if isinstance(source, VolumeSource) else None


def model_name_of(spec: QuantizedModelSpec) -> str:
    """What the model is called where nobody has said otherwise."""
    base = base_of(spec)
    return base.repository if isinstance(base, RepositorySource) else base.name


def intent_of(spec: QuantizedModelSpec) -> Intent:
    """The planning inputs with defaults filled in. The API server has checked every quantity and pattern.

    What exists goes before what would have to be made: this release serves checkpoints and makes none.
    """
    serving, gpu = spec.serving, spec.gpu
    capability = gpu and gpu.min_compute_capability
    scheme = (spec.quantization and spec.quantization.scheme) or Scheme.AUTO
    dtype = serving and serving.kv_cache_dtype
    method = spec.quantization and spec.quantization.method
    objective = serving and serving.objective
    arguments = (serving and serving.engine_arguments) or {}
    return Intent(
        repository=model_name_of(spec),
        scheme=scheme.value,
        context_tokens=serving.context_tokens if serving else None,
        concurrent_requests=(serving and serving.concurrent_requests) or DEFAULT_CONCURRENT_REQUESTS,
        tokens_per_request=serving.tokens_per_request if serving else None,
        kv_cache_dtype=KvCacheDtype(dtype.value) if dtype else KvCacheDtype.AUTO,
        served_model_name=serving.served_model_name if serving else None,
        min_memory_bytes=_bytes(gpu.min_memory if gpu else None),
        min_compute_capability=ComputeCapability.parse(capability) if capability else None,
        products=tuple(gpu.products or ()) if gpu else (),
        gpus_per_replica=gpu.per_replica if gpu else None,
        reserved_memory_bytes=_bytes(gpu.reserved_memory if gpu else None),
        engine_arguments=tuple(sorted(arguments.items())),
        objective=Objective(objective.value) if objective else Objective.LOWEST_COST,
        method=method.value if method else "Auto",
        prefer_existing=True,
    )


def _bytes(quantity: str | None) -> int:
    return int(parse_quantity(quantity)) if quantity else 0
