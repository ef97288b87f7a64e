"""The conditions of a QuantizedModel and the closed list of their reasons.

docs/conditions.md shows the same list to users; a test holds the two together.
"""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """In the order in which a model passes them; the last three summarise (kstatus)."""

    MODEL_RESOLVED = "ModelResolved"
    PLANNED = "Planned"
    CHECKPOINT_READY = "CheckpointReady"
    AVAILABLE = "Available"
    WITHIN_PLAN = "WithinPlan"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """One CamelCase word each. The comment says who is meant to act."""

    # Not known yet
    PENDING = "Pending"

    # ModelResolved
    RESOLVED = "Resolved"
    REPOSITORY_NOT_FOUND = "RepositoryNotFound"  # missing, or private: the Hub does not tell them apart without a token
    REPOSITORY_RENAMED = "RepositoryRenamed"
    REVISION_NOT_FOUND = "RevisionNotFound"
    ACCESS_GATED = "AccessGated"
    TOKEN_INVALID = "TokenInvalid"  # noqa: S105 - a reason, not a token
    CONFIG_MISSING = "ConfigMissing"
    CONFIG_INVALID = "ConfigInvalid"
    NO_SAFETENSORS = "NoSafetensors"  # pickle weights only, or no weights at all
    GGUF_ONLY = "GgufOnly"
    ADAPTER_ONLY = "AdapterOnly"  # a PEFT adapter: merge it first
    CORRUPT_CHECKPOINT = "CorruptCheckpoint"
    UNSUPPORTED_QUANTIZATION = "UnsupportedQuantization"  # bitsandbytes, act-order GPTQ with groups, ...
    UNSUPPORTED_ARCHITECTURE = "UnsupportedArchitecture"
    INSPECTING = "Inspecting"  # a Job reads what the operator may not
    INSPECTION_FAILED = "InspectionFailed"
    CLAIM_NOT_FOUND = "ClaimNotFound"  # the PersistentVolumeClaim that the model names
    REVISION_MOVED = "RevisionMoved"  # the branch or tag names another commit than the one pinned
    REPOSITORY_CHANGED = "RepositoryChanged"  # between two reads of one commit
    HUB_THROTTLED = "HubThrottled"
    HUB_UNAVAILABLE = "HubUnavailable"

    # Planned
    PLANNED = "Planned"
    DISCOVERING = "Discovering"  # published checkpoints are being looked for
    NO_NODES = "NoNodes"
    NO_GPU_NODES = "NoGpuNodes"
    NO_GPU_LABELS = "NoGpuLabels"
    NO_MATCHING_GPU = "NoMatchingGpu"  # gpu.products, minMemory or minComputeCapability exclude all there are
    DOES_NOT_FIT = "DoesNotFit"
    CONTEXT_TOO_LONG = "ContextTooLong"  # longer than the model itself allows
    SCHEME_MISMATCH = "SchemeMismatch"  # quantization.scheme contradicts what the checkpoint is
    NOT_QUANTIZABLE = "NotQuantizable"  # the scheme asked for cannot be made of this model
    ARGUMENT_NOT_ALLOWED = "ArgumentNotAllowed"

    # CheckpointReady
    EXISTING = "Existing"  # the repository named is the checkpoint
    FOUND = "Found"  # by discovery: a quantised checkpoint of the model named
    NO_CHECKPOINT = "NoCheckpoint"  # the plan needs one that nobody has named and discovery has not found

    # Available
    ALL_REPLICAS_READY = "AllReplicasReady"
    SOME_REPLICAS_READY = "SomeReplicasReady"
    SCALED_TO_ZERO = "ScaledToZero"
    STARTING = "Starting"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REFUSED = "PodRefused"  # admission said no: Pod Security, a webhook
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONFIGURATION_MISSING = "ConfigurationMissing"  # a Secret or ConfigMap that the pod names
    DOWNLOAD_FAILED = "DownloadFailed"
    DOWNLOAD_ACCESS_DENIED = "DownloadAccessDenied"
    CHECKSUM_MISMATCH = "ChecksumMismatch"  # a file is not the one whose digest was pinned
    VOLUME_PENDING = "VolumePending"  # the cache volume's claim is not bound
    DISK_FULL = "DiskFull"
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    CONTAINER_OUT_OF_MEMORY = "ContainerOutOfMemory"
    KV_CACHE_TOO_SMALL = "KvCacheTooSmall"
    ENGINE_ARGUMENT_REFUSED = "EngineArgumentRefused"
    CHECKPOINT_REFUSED = "CheckpointRefused"  # the kernel or loader cannot take it
    MODEL_NOT_FOUND = "ModelNotFound"  # by the engine
    WORKER_KILLED = "WorkerKilled"
    ENGINE_FAILED = "EngineFailed"  # a cause that is not in this list; the message carries the engine's own line
    START_TIMEOUT = "StartTimeout"

    # WithinPlan
    WITHIN_PLAN = "WithinPlan"
    BELOW_PLAN = "BelowPlan"
    NOT_MEASURED = "NotMeasured"

    # Ready, Reconciling, Stalled
    READY = "Ready"
    PROGRESSING = "Progressing"
    ROLLED_BACK = "RolledBack"
    CONFLICT = "Conflict"
    PLAN_ONLY = "PlanOnly"  # spec.mode: Plan
    API_ERROR = "ApiError"
