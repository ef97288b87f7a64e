"""The parts of the operator's configuration, field by field. docs/configuration.md lists the same fields for users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from kubernetes.utils.quantity import parse_quantity
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, model_validator
from pydantic.alias_generators import to_camel

from kubequant.hub.trust import TRUSTED_PUBLISHERS
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.runtime.spelling import matching


class Section(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class EngineSection(Section):
    """The serving engine. Changing it restarts nothing: running models keep what they were planned with."""

    image: Annotated[str, Field(min_length=1)] = f"docker.io/vllm/vllm-openai:v{VLLM_0_33.version}"
    """Image that has `vllm` and `python3` on its PATH."""
    image_pull_policy: str = "IfNotPresent"
    version: str = VLLM_0_33.version
    """vLLM's version in that image; the overheads of the plan are its."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Further environment variables of the engine's container."""
    extra_arguments: list[str] = Field(default_factory=list)
    """Arguments that follow those of the plan, for every model."""
    start_allowance_seconds: Annotated[int, Field(ge=10, le=36_000)] = 600
    """What the engine may take to start beside loading: imports, compilation, CUDA graphs."""
    load_floor_bytes_per_second: Annotated[int, Field(ge=1_000_000)] = 100_000_000
    """The slowest disk that is still waited for: weights divided by this are added to the allowance."""


RedirectHost = Annotated[
    str,
    matching(
        "([*][.])?[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?",
        "a host without scheme, port and path, as in cdn.example.com or *.example.com",
    ),
]
"""A host without port; `*.` before it stands for all below it."""


class HubSection(Section):
    """The Hugging Face Hub, or a mirror of it."""

    endpoint: HttpUrl = HttpUrl("https://huggingface.co")
    """Reached by the operator and by the pods' download alike."""
    revision_check_seconds: Annotated[float, Field(ge=1, le=2_592_000)] = 21_600
    """How often it is looked whether a branch or tag still names the commit that was pinned; reported, never followed."""
    token_file: Path | None = None
    """File with the operator's own token, read anew at each use. It goes to the endpoint's host only."""
    proxy: HttpUrl | None = None
    """Through which the operator and the pods' download reach the Hub. Left out: the operator as HTTPS_PROXY, HTTP_PROXY and
    NO_PROXY of its environment say, pods directly."""
    proxy_credentials_file: Path | None = None
    """File with the operator's own `user:password` for the proxy, read at the start. Pods are given none."""
    ca_file: Path | None = None
    """PEM certificates that are trusted beside the system's, for the endpoint and wherever it redirects to. Read at the start."""
    redirect_hosts: Annotated[list[RedirectHost], Field(max_length=64)] = Field(default_factory=list)
    """The only hosts beside the endpoint's own that a redirect may lead to. Empty: any."""
    cache_folder: Path | None = None
    """Keeps model facts and answers of the Hub's API over restarts. Without it they are kept in memory."""
    cache_bytes: Annotated[int, Field(ge=1_048_576)] = 268_435_456
    """Of that folder; the least recently used goes first."""

    @model_validator(mode="before")
    @classmethod
    def _urls_hold_no_credentials(cls, values: Any) -> Any:
        """Before they are parsed: what is wrong with a URL is said together with it."""
        for name, instead in _INSTEAD_OF_CREDENTIALS.items():
            if isinstance(values, dict) and "@" in str(values.get(name, "")):
                raise ValueError(
                    f"{name} must not hold a user name or password (there is an @ in it), because it is written into pods of "
                    f"every namespace with a model. {instead}"
                )
        return values

    @model_validator(mode="after")
    def _credentials_are_for_a_proxy(self) -> Self:
        if self.proxy_credentials_file and self.proxy is None:
            raise ValueError("proxyCredentialsFile is for the proxy that hub.proxy names, and none is named there")
        return self


_INSTEAD_OF_CREDENTIALS = {
    "endpoint": "The operator's token goes into hub.tokenFile, a model's into the Secret of its model.tokenSecretRef.",
    "proxy": "The operator's own go into hub.proxyCredentialsFile; pods must be let through without.",
}


Publisher = Annotated[
    str,
    matching("[A-Za-z0-9][A-Za-z0-9._-]{0,95}", "the name of an organisation or a user of the Hub, as in RedHatAI"),
]
"""An organisation or a user of the Hub."""


class DiscoverySection(Section):
    """Whose quantised checkpoints may be served without being named in a model."""

    enabled: bool = True
    """Off: no model's checkpoint is looked for, whatever the model says."""
    publishers: Annotated[list[Publisher], Field(max_length=256)] = Field(
        default_factory=lambda: list(TRUSTED_PUBLISHERS)
    )
    """In place of the shipped list, the most trusted first. The base model's own organisation always comes first."""
    additional_publishers: Annotated[list[Publisher], Field(max_length=256)] = Field(default_factory=list)
    """After those of `publishers`."""


class ModelCacheSection(Section):
    """Where pods keep the weights. Changing it restarts nothing: running models keep the volume they were planned with."""

    kind: Literal["EmptyDir", "PersistentVolumeClaim"] = "EmptyDir"
    """EmptyDir: each pod downloads for itself. PersistentVolumeClaim: one claim for each repository and commit of a namespace,
    filled by one Job and mounted read-only by the pods."""
    storage_class_name: str | None = None
    """Of the claims; the cluster's default when left out. A class of local volumes keeps the weights on one node."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """ReadWriteOnce: all replicas of a model share one node."""


class InspectorSection(Section):
    """The Job that describes what the operator may not read: repositories behind a model's own token, and volumes."""

    image: str | None = None
    """The operator's own image. Without it such models are refused."""
    image_pull_policy: str = "IfNotPresent"


Product = Annotated[
    str,
    Field(min_length=1, max_length=63),
    matching(
        "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "a value of the label nvidia.com/gpu.product, as in NVIDIA-L4"
    ),
]
"""A value of the label nvidia.com/gpu.product."""
Capability = Annotated[str, matching("[0-9]{1,2}[.][0-9]", "a compute capability, as in '8.9'")]
Price = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
"""Of one GPU an hour, in any one currency."""
Rate = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Label = Annotated[str, Field(max_length=317)]


def _gpu_memory(quantity: str) -> str:
    try:
        size = parse_quantity(quantity)
    except ValueError:
        raise ValueError(f"{quantity!r} is no quantity such as 24Gi") from None
    if not 1 << 30 <= size <= 1 << 42:
        raise ValueError(f"{quantity} is no memory of a GPU: from 1Gi to 4Ti")
    return quantity


class GpuTableRow(Section):
    """A GPU: of a product that is known the fields given replace the shipped ones. Rates are dense, in 10^9 bytes and 10^12 operations a second."""

    product: Product
    memory_mib: Annotated[int, Field(ge=1024, le=4_194_304)] | None = Field(None, alias="memoryMiB")
    """As the label nvidia.com/gpu.memory has it, or would."""
    compute_capability: Capability | None = None
    """Needed for a product that the shipped table does not have."""
    bandwidth_gbs: Rate | None = Field(None, alias="bandwidthGBs")
    fp16_tflops: Rate | None = None
    fp8_tflops: Rate | None = None
    fp4_tflops: Rate | None = None
    int8_tops: Rate | None = None
    nvlink: bool | None = None
    price_per_hour: Price | None = None


class TolerationSection(Section):
    """As in a pod's spec."""

    key: Label = ""
    operator: Literal["", "Exists", "Equal"] = ""
    value: Annotated[str, Field(max_length=63)] = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class GpuPoolSection(Section):
    """Nodes with GPUs that an autoscaler makes on demand, planned on as if they were there."""

    name: Annotated[
        str,
        matching("[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", "a name of at most 63 lower-case letters, digits, `-` and `.`"),
    ]
    product: Product
    memory: Annotated[str, Field(max_length=32), AfterValidator(_gpu_memory)] | None = None
    """Of one GPU; needed where the table of GPUs does not know the product. Of both the smaller counts."""
    compute_capability: Capability | None = None
    gpus_per_node: Annotated[int, Field(ge=1, le=64)]
    max_nodes: Annotated[int, Field(ge=1, le=10_000)]
    node_selector: Annotated[dict[Label, Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=16)]
    """Labels that all its nodes have and no others: pods select by them."""
    tolerations: Annotated[list[TolerationSection], Field(max_length=16)] = Field(default_factory=list)
    price_per_hour: Price | None = None


class LeaderElectionSection(Section):
    """One replica works, the others stand by."""

    enabled: bool = True
    namespace: str = "kubequant-system"
    name: str = "kubequant-operator"
    lease_seconds: Annotated[int, Field(ge=3, le=300)] = 15
