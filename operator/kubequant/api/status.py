"""What users read: the status of a QuantizedModel. Every list is bounded; nothing here decides anything."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kubequant.api.spec import Part

MAX_ALTERNATIVES = 8
MAX_REFUSALS = 16
MAX_NOTES = 8
MAX_CANDIDATES = 24
MAX_MESSAGE = 1024

Word = Annotated[str, Field(max_length=316)]
Sentence = Annotated[str, Field(max_length=MAX_MESSAGE)]
Bytes = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class Condition(Part):
    """metav1.Condition."""

    type: Word
    status: Annotated[str, Field(max_length=7)]
    reason: Word
    message: Annotated[str, Field(max_length=32768)]
    observed_generation: Count | None = None
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class MemoryStatus(Part):
    """The budget of one GPU, line by line, in bytes. Promised: usable - weights - activation - cudaGraphs - nonTorch - margin = kvCache."""

    total: Bytes = Field(description="What CUDA reports, a little less than the label nvidia.com/gpu.memory.")
    gpu_memory_utilization: Word = Field(
        description="Share of the total that vLLM may use, derived from the lines below."
    )
    usable: Bytes
    reserved: Bytes = Field(description="Left alone as gpu.reservedMemory asks.")
    context: Bytes = Field(description="CUDA context, cuBLAS and NCCL: outside of usable.")
    weights: Bytes
    activation: Bytes
    cuda_graphs: Bytes
    non_torch: Bytes
    margin: Bytes = Field(description="Kept back so that the promise holds: expected less promised.")
    kv_cache: Bytes
    expected_kv_cache: Bytes
    kv_bytes_per_token: Bytes


class AlternativeStatus(Part):
    """A placement that would also have worked, the next best first."""

    gpu_product: Word
    gpus: Count
    scheme: Word | None = None
    kv_cache_dtype: Word | None = None
    context_tokens: Count | None = None
    kv_cache_tokens: Count | None = None
    predicted: bool | None = Field(None, description="Whether its checkpoint would have to be made.")
    message: Sentence


class RefusalStatus(Part):
    """A placement that was not taken, and the rule that decided."""

    gpu_product: Annotated[str, Field(max_length=316)]
    gpus: Count
    scheme: Word
    rule: Word
    reason: Word | None = Field(None, description="One word for programs: WeightsDoNotFit, NotDivisible, ...")
    message: Sentence


class BoundsStatus(Part):
    """What no engine can beat on this placement (a roofline, no prediction); decimal numbers as text."""

    decode_tokens_per_second: Word = Field(description="All concurrent requests of a replica together.")
    seconds_per_token: Word = Field(description="Of one of these requests.")
    prefill_tokens_per_second: Word
    limited_by: Word = Field(description="Memory or Compute: what limits decoding at this concurrency.")


class PlanStatus(Part):
    """The plan of updateRevision."""

    gpu_product: Word | None = None
    gpus_per_replica: Count | None = None
    tensor_parallel_size: Count | None = None
    pipeline_parallel_size: Count | None = None
    objective: Word | None = None
    scheme: Word | None = None
    method: Word | None = None
    kernel: Word | None = None
    kv_cache_dtype: Word | None = None
    memory: MemoryStatus | None = None
    context_tokens: Count | None = None
    concurrent_requests: Count | None = None
    kv_cache_tokens: Count | None = Field(None, description="Promised, for one replica.")
    expected_kv_cache_tokens: Count | None = None
    kv_cache_tokens16_bit: Count | None = Field(
        None, description="Promised with a 16-bit KV cache on the same GPUs; only where FP8 was chosen."
    )
    weight_bytes: Bytes | None = None
    predicted: bool | None = Field(
        None, description="True: the checkpoint does not exist; its bytes are predicted from the base's headers."
    )
    bounds: BoundsStatus | None = None
    notes: (
        Annotated[list[Sentence], Field(max_length=MAX_NOTES, json_schema_extra={"x-kubernetes-list-type": "atomic"})]
        | None
    ) = Field(None, description="What a reader should know of the figures.")
    evidence: Word | None = Field(None, description="What the overheads rest on: Measured, Fitted or Extrapolated.")
    engine: Word | None = None
    arguments: (
        Annotated[
            list[Annotated[str, Field(max_length=512)]],
            Field(max_length=96, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    alternatives: (
        Annotated[
            list[AlternativeStatus],
            Field(max_length=MAX_ALTERNATIVES, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    refusals: (
        Annotated[
            list[RefusalStatus], Field(max_length=MAX_REFUSALS, json_schema_extra={"x-kubernetes-list-type": "atomic"})
        ]
        | None
    ) = None


class CandidateStatus(Part):
    """A published checkpoint of the model that discovery looked at."""

    repository: Word
    verdict: Word = Field(description="Chosen, Eligible (trusted, and something else was better) or Rejected.")
    reason: Word | None = Field(None, description="One word for programs: NotTrusted, TokenizerDiffers, ...")
    message: Sentence | None = None


class DiscoveryStatus(Part):
    """What was found for the base model, when the plan was made."""

    base: Word = Field(description="The model that was looked for.")
    considered: Count = Field(description="All candidates, those beyond the list's bound included.")
    candidates: (
        Annotated[
            list[CandidateStatus],
            Field(max_length=MAX_CANDIDATES, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    notes: (
        Annotated[list[Sentence], Field(max_length=MAX_NOTES, json_schema_extra={"x-kubernetes-list-type": "atomic"})]
        | None
    ) = None


class ProgressStatus(Part):
    """How far a download is that pods wait for."""

    downloaded_bytes: Bytes
    total_bytes: Bytes


class MeasuredStatus(Part):
    """What the running engine says of itself, once a revision."""

    kv_cache_tokens: Count | None = None


class QuantizedModelStatus(Part):
    """Observed state; can be rebuilt from the cluster at any time."""

    observed_generation: Count | None = None
    conditions: (
        Annotated[
            list[Condition],
            Field(
                max_length=16,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
            ),
        ]
        | None
    ) = None
    current_revision: Word | None = Field(None, description="ControllerRevision that serves.")
    update_revision: Word | None = Field(None, description="ControllerRevision that is wanted.")
    model_commit: Annotated[str, Field(max_length=64)] | None = None
    checkpoint: Word | None = Field(None, description="Repository that is served.")
    newer_commit: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="What the branch or tag names now, where that is no longer modelCommit."
    )
    discovery: DiscoveryStatus | None = None
    progress: ProgressStatus | None = None
    plan: PlanStatus | None = None
    measured: MeasuredStatus | None = None
    replicas: Count | None = None
    ready_replicas: Count | None = None
    selector: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="Label selector of the pods, for autoscalers."
    )
    endpoint: Annotated[str, Field(max_length=512)] | None = None
