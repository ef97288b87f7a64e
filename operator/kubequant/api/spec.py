"""What users write: the spec of a QuantizedModel.

Planning inputs (`model`, `quantization`, `serving`, `gpu`) have no schema defaults: the hash of a decision covers them as
written, so a newer CRD must not add to them. Their defaults are filled in by `intent()` in `reconcile`.
Refusals are CEL rules with a sentence, not patterns: the API server shows the sentence to whoever applies the manifest.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic.alias_generators import to_camel

from kubequant.api.schema import cel, validations

MAX_CONTEXT_TOKENS = 10_485_760
MAX_GPUS_PER_REPLICA = 16
MAX_NAME_LENGTH = 52  # leaves 11 characters for the suffixes of children (63 is a label's and a Service's limit)


class Part(BaseModel):
    """Base of everything in the kind: camelCase outside, snake_case inside, fields of a newer CRD are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


def text(maximum: int, *rules: dict[str, str], minimum: int = 1) -> Any:
    """A bounded string with CEL rules."""
    return Field(min_length=minimum, max_length=maximum, json_schema_extra=validations(*rules) if rules else None)


def _quantity(meaning: str) -> dict[str, str]:
    return cel(
        "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
        f"{meaning} must be a positive quantity such as 40Gi",
    )


RepositoryName = Annotated[
    str,
    text(
        193,
        cel(
            "self.matches('^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$')",
            "a repository must be written organisation/name, as in Qwen/Qwen2.5-14B-Instruct",
        ),
        cel("!self.contains('..') && !self.contains('--')", "a repository name must not contain `..` or `--`"),
    ),
]
Revision = Annotated[
    str,
    text(
        255,
        cel(
            "self.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$') && !self.contains('..')",
            "`revision` must be a branch, a tag or a commit: letters, digits, `.`, `_`, `/` and `-`",
        ),
    ),
]
DnsName = Annotated[
    str,
    text(
        253,
        cel(
            "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "must be the name of a Kubernetes object: lower-case letters, digits, `-` and `.`",
        ),
    ),
]
IntOrQuantity = Annotated[
    str | int,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [
                cel(
                    "type(self) == int ? self > 0 : isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
                    "must be a positive quantity such as 4, 500m or 16Gi",
                )
            ],
        }
    ),
]
_LABEL_KEY = "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABEL_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
LabelValue = Annotated[
    str,
    text(
        63,
        cel(
            f"self.matches('{_LABEL_VALUE}')",
            "a label value is at most 63 letters, digits, `-`, `_` and `.`, and starts and ends with a letter or digit",
        ),
        minimum=0,
    ),
]


def _keys_of(what: str) -> tuple[dict[str, str], ...]:
    return (
        cel(
            f"self.all(k, k.matches('{_LABEL_KEY}'))",
            f"each key of `{what}` must be a label key such as team or example.com/team",
        ),
        cel(
            "self.all(k, !k.startsWith('kubequant.dev/') && !k.startsWith('app.kubernetes.io/'))",
            f"`{what}` must not set kubequant.dev/ or app.kubernetes.io/ keys: KubeQuant sets those itself",
        ),
    )


class SecretKeyRef(Part):
    """A key of a Secret in the model's own namespace. The operator never reads it; pods do: the download, and the inspector Job."""

    name: DnsName = Field(description="Name of the Secret.")
    key: Annotated[
        str,
        text(
            253,
            cel(
                "self.matches('^[-._a-zA-Z0-9]+$')",
                "`key` must be a key of a Secret: letters, digits, `-`, `_` and `.`",
            ),
        ),
    ] = Field(description="Key within the Secret that holds the token.")


_PATH = "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
_PATH_RULE = "`path` must be a relative path within the volume: letters, digits, `.`, `_`, `-` and `/`, no `..`"


class ClaimSource(Part):
    """A folder of a PersistentVolumeClaim in the model's own namespace. The operator never opens it: a Job and the pods do, read-only."""

    claim_name: DnsName = Field(description="Name of the PersistentVolumeClaim.")
    path: (
        Annotated[
            str,
            text(
                512,
                cel(
                    f"self.matches('{_PATH}') && !self.contains('..')",
                    _PATH_RULE,
                ),
            ),
        ]
        | None
    ) = Field(None, description="Folder within the volume that holds config.json; its top when left out.")

    @field_validator("path")
    @classmethod
    def _path_stays_within(cls, path: str | None) -> str | None:
        if path is not None and (".." in path or not re.fullmatch(_PATH, path)):
            raise ValueError(_PATH_RULE)
        return path


_EXACTLY_ONE = cel(
    "has(self.repository) != has(self.persistentVolumeClaim)",
    "exactly one of `repository` and `persistentVolumeClaim` must be given",
)
_REVISION_OF_REPOSITORY = cel("!has(self.revision) || has(self.repository)", "`revision` belongs to a `repository`")


class OneSource(Part):
    """Base of what names either a repository or a volume's folder. The API server checks by CEL; whoever parses elsewhere, here."""

    repository: RepositoryName | None
    persistent_volume_claim: ClaimSource | None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.repository is None) == (self.persistent_volume_claim is None):
            raise ValueError("exactly one of repository and persistentVolumeClaim must be given")
        return self


class ModelSource(OneSource):
    """Which model: a repository of the Hugging Face Hub (or of the mirror that the operator is configured for), or files that are here already."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            _EXACTLY_ONE,
            _REVISION_OF_REPOSITORY,
            cel("!has(self.tokenSecretRef) || has(self.repository)", "`tokenSecretRef` belongs to a `repository`"),
        )
    )

    repository: RepositoryName | None = Field(
        None, description="Repository, organisation/name. One that is quantised already is served as it is."
    )
    persistent_volume_claim: ClaimSource | None = Field(
        None, description="A model's folder in place of a repository; read by a Job, mounted read-only by the pods."
    )
    revision: Revision | None = Field(
        None, description="Branch, tag or commit; main when left out. Pinned to a commit once, when planned."
    )
    token_secret_ref: SecretKeyRef | None = Field(
        None,
        description="Token for a gated or private repository; used by pods only: the download, and a Job that describes what only it opens.",
    )


class Scheme(StrEnum):
    """Bits of weights and activations."""

    AUTO = "Auto"
    UNQUANTIZED = "Unquantized"
    W4A16 = "W4A16"
    W8A16 = "W8A16"
    FP8 = "FP8"
    W8A8 = "W8A8"
    NVFP4 = "NVFP4"
    MXFP4 = "MXFP4"


class Method(StrEnum):
    """How the numbers of a quantised checkpoint were, or would be, found."""

    AUTO = "Auto"
    AWQ = "AWQ"
    GPTQ = "GPTQ"
    ROUND_TO_NEAREST = "RoundToNearest"


class CheckpointSource(OneSource):
    """Exactly this quantised checkpoint is served."""

    model_config = ConfigDict(json_schema_extra=validations(_EXACTLY_ONE, _REVISION_OF_REPOSITORY))

    repository: RepositoryName | None = Field(
        None, description="Repository of the quantised checkpoint, organisation/name."
    )
    revision: Revision | None = Field(None, description="Branch, tag or commit; main when left out.")
    persistent_volume_claim: ClaimSource | None = Field(None, description="The checkpoint's folder in a volume.")


class Discovery(StrEnum):
    """Whether published checkpoints of a model in 16 bit are looked for."""

    TRUSTED = "Trusted"
    DISABLED = "Disabled"


class Quantization(Part):
    """How the model is to be quantised."""

    scheme: Scheme | None = Field(
        None,
        description="Auto (default) takes what the checkpoint is. Another value refuses a checkpoint that is not that; of a "
        "model in 16 bit it plans the checkpoint that could be made.",
    )
    method: Method | None = Field(
        None, description="Auto (default), or how the checkpoint was made; decides the layout of one that is planned."
    )
    checkpoint: CheckpointSource | None = Field(None, description="Serve this checkpoint of the model.")
    discovery: Discovery | None = Field(
        None,
        description="Trusted (default): quantised checkpoints of the model by publishers that the operator trusts are found, checked "
        "and compete with it. Disabled: only what is named here is served.",
    )


class KvCacheDtypeName(StrEnum):
    """Numbers of the KV cache."""

    AUTO = "Auto"
    BF16 = "BF16"
    FP8 = "FP8"


class ObjectiveName(StrEnum):
    """What is made best among what fits."""

    LOWEST_COST = "LowestCost"
    LOWEST_LATENCY = "LowestLatency"
    HIGHEST_THROUGHPUT = "HighestThroughput"
    HIGHEST_QUALITY = "HighestQuality"


class Serving(Part):
    """What the model must be able to serve. What is left out is derived from the card chosen."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.tokensPerRequest) || !has(self.contextTokens) || self.tokensPerRequest <= self.contextTokens",
                "`tokensPerRequest` must not exceed `contextTokens`: a request cannot hold more than the context",
            )
        )
    )

    served_model_name: (
        Annotated[
            str,
            text(
                193,
                cel(
                    "self.matches('^[A-Za-z0-9][A-Za-z0-9._:/-]*$')",
                    "`servedModelName` must be letters, digits, `.`, `_`, `:`, `/` and `-`, and start with a letter or digit",
                ),
            ),
        ]
        | None
    ) = Field(None, description="Name in the OpenAI API; the repository's when left out.")
    context_tokens: Annotated[int, Field(ge=128, le=MAX_CONTEXT_TOKENS)] | None = Field(
        None, description="Longest request, prompt and answer, in tokens; as long as fits when left out."
    )
    concurrent_requests: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Requests that run side by side, each of tokensPerRequest; more queue. 16 when left out."
    )
    tokens_per_request: Annotated[int, Field(ge=1, le=MAX_CONTEXT_TOKENS)] | None = Field(
        None, description="Tokens that a request holds on average; min(contextTokens, 4096) when left out."
    )
    objective: ObjectiveName | None = Field(
        None,
        description="LowestCost (default): prices where the operator knows them, else GPU memory taken; LowestLatency, "
        "HighestThroughput, HighestQuality. docs/planning.md has the orders.",
    )
    kv_cache_dtype: KvCacheDtypeName | None = Field(
        None, description="Auto (default): FP8 where the card does it natively (8.9 and above)."
    )
    engine_arguments: (
        Annotated[
            dict[str, Annotated[str, Field(max_length=256)]],
            Field(
                max_length=32,
                json_schema_extra=validations(
                    cel(
                        "self.all(k, k.matches('^[a-z][a-z0-9-]{1,63}$'))",
                        "keys of `engineArguments` are vLLM options without the dashes, as in enable-prefix-caching",
                    )
                ),
            ),
        ]
        | None
    ) = Field(None, description="Further options of vLLM, from the allow-list in docs/api.md.")


class Gpu(Part):
    """Which GPUs may be taken. Everything is optional."""

    min_memory: Annotated[str, text(32, _quantity("`minMemory`"))] | None = Field(
        None, description="Least memory of one GPU, as a quantity."
    )
    min_compute_capability: (
        Annotated[
            str, text(4, cel("self.matches('^[0-9]{1,2}[.][0-9]$')", "`minComputeCapability` must look like 8.9"))
        ]
        | None
    ) = Field(None, description='Least compute capability, as in "8.9".')
    products: (
        Annotated[
            list[LabelValue], Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"})
        ]
        | None
    ) = Field(None, description="Only these products, by the label nvidia.com/gpu.product.")
    per_replica: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_REPLICA)] | None = Field(
        None, description="Exactly this many GPUs for a replica."
    )
    reserved_memory: Annotated[str, text(32, _quantity("`reservedMemory`"))] | None = Field(
        None, description="Memory of each GPU to leave alone: a display, another process."
    )


class TolerationOperator(StrEnum):
    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Part):
    """A taint that the pods tolerate."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!(has(self.operator) && self.operator == 'Exists' && has(self.value))",
                "a toleration with operator Exists must not have a `value`",
            ),
            cel(
                "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
                "a toleration without `key` needs operator Exists",
            ),
            cel(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "`tolerationSeconds` needs effect NoExecute",
            ),
        )
    )

    key: (
        Annotated[str, text(316, cel(f"self.matches('{_LABEL_KEY}')", "`key` of a toleration must be a label key"))]
        | None
    ) = None
    operator: TolerationOperator | None = None
    value: LabelValue | None = None
    effect: TaintEffect | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class PodResources(Part):
    """Requests and limits of the engine's container beside its GPUs."""

    cpu: IntOrQuantity | None = Field(None, description="CPU request.")
    memory: IntOrQuantity | None = Field(None, description="Memory request and limit.")


class SecretRef(Part):
    """A Secret of the model's own namespace."""

    name: DnsName = Field(description="Name of the Secret.")


class Pod(Part):
    """What is the platform's, not the model's: changing it makes a new revision with the same plan."""

    node_selector: (
        Annotated[
            dict[str, LabelValue],
            Field(
                max_length=16,
                json_schema_extra=validations(
                    cel(f"self.all(k, k.matches('{_LABEL_KEY}'))", "each key of `nodeSelector` must be a label key"),
                    cel(
                        "!('nvidia.com/gpu.product' in self)",
                        "`nodeSelector` must not choose the GPU: say it in `gpu.products`",
                    ),
                ),
            ),
        ]
        | None
    ) = None
    tolerations: (
        Annotated[list[Toleration], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})] | None
    ) = None
    runtime_class_name: DnsName | None = None
    priority_class_name: DnsName | None = None
    labels: (
        Annotated[dict[str, LabelValue], Field(max_length=32, json_schema_extra=validations(*_keys_of("labels")))]
        | None
    ) = None
    annotations: (
        Annotated[
            dict[str, Annotated[str, Field(max_length=4096)]],
            Field(max_length=32, json_schema_extra=validations(*_keys_of("annotations"))),
        ]
        | None
    ) = None
    resources: PodResources | None = None
    image_pull_secrets: (
        Annotated[
            list[SecretRef],
            Field(
                max_length=8,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ]
        | None
    ) = Field(None, description="Secrets for pulling the engine's image, as a pod has them.")


class RolloutStrategy(StrEnum):
    AUTO = "Auto"
    SURGE = "Surge"
    IN_PLACE = "InPlace"


class Rollout(Part):
    """How a new revision replaces the old one."""

    strategy: RolloutStrategy = Field(
        RolloutStrategy.AUTO,
        description="Auto: a surge pod where a GPU is free, else in place. Surge: never below the replicas wanted. InPlace: never more GPUs.",
    )


class Mode(StrEnum):
    SERVE = "Serve"
    PLAN = "Plan"


class QuantizedModelSpec(Part):
    """The intent: which model, what it must serve, on which GPUs."""

    model: ModelSource
    quantization: Quantization | None = None
    serving: Serving | None = None
    gpu: Gpu | None = None
    replicas: int = Field(
        1, ge=0, le=1000, description="Replicas; an autoscaler may own this through the scale subresource."
    )
    pod: Pod | None = None
    rollout: Rollout | None = None
    mode: Mode = Field(
        Mode.SERVE, description="Plan: decide and write status, create nothing but the ControllerRevision."
    )
