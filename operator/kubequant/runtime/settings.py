"""The operator's configuration: a YAML file (`--config`), overridden by environment variables KUBEQUANT_...

Every field is documented where it stands; docs/configuration.md lists the same fields for users.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from kubernetes.utils.quantity import parse_quantity
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from kubequant.hub.client import Hub
from kubequant.hub.session import Connecting
from kubequant.hub.trust import TRUSTED_PUBLISHERS
from kubequant.manifests.children import AUTHORITIES_FILE, engine_files
from kubequant.manifests.inspector import InspectorSettings
from kubequant.manifests.recipe import CacheSettings, EngineSettings
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.gpu_table import GIGA, MIB, TERA, GpuTable, shipped_table
from kubequant.planning.pools import DeclaredPool, pool_class
from kubequant.planning.values import ComputeCapability, Toleration
from kubequant.runtime.spelling import matching, without_json
from kubequant.runtime.token_file import TokenFile

_PREFIX, _DELIMITER = "KUBEQUANT_", "__"  # of the environment's variables
MAX_AUTHORITIES_BYTES = 64 * 1024  # each model has a copy: a thousand of them lie in etcd as 64 MiB


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


class Settings(BaseSettings):
    """All settings. Unknown fields are refused, with their names.

    No aliases here: a variable called by one (WORKERS, HUB) would be read, whatever the prefix.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter=_DELIMITER,
        extra="forbid",
        hide_input_in_errors=True,
    )

    engine: EngineSection = Field(default_factory=EngineSection)
    hub: HubSection = Field(default_factory=HubSection)
    discovery: DiscoverySection = Field(default_factory=DiscoverySection)
    model_cache: ModelCacheSection = Field(default_factory=ModelCacheSection)
    inspector: InspectorSection = Field(default_factory=InspectorSection)
    leader_election: LeaderElectionSection = Field(default_factory=LeaderElectionSection)
    gpu_table: Annotated[list[GpuTableRow], Field(max_length=256)] = Field(default_factory=list)
    """What this cluster's administrator knows better than the shipped table of GPUs, or beyond it."""
    gpu_prices: Annotated[dict[Product, Price], Field(max_length=256)] = Field(default_factory=dict)
    """By product label; before those in gpuTable."""
    gpu_pools: Annotated[list[GpuPoolSection], Field(max_length=64)] = Field(default_factory=list)
    """GPUs that scale from zero."""
    workers: Annotated[int, Field(ge=1, le=256)] = 32
    """Models that are worked on at the same time."""
    resync_seconds: Annotated[int, Field(ge=10)] = 300
    """A full list repairs what a broken watch lost."""
    http_host: str = "0.0.0.0"  # noqa: S104 - probes come from the node
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Probes and metrics; 0 takes any free port."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _gpus_are_described(self) -> Self:
        table, pools = gpu_table(self), gpu_pools(self)
        for number, pool in enumerate(pools):
            pool_class(pool, table)
            for other in pools[:number]:
                if pool.name == other.name:
                    raise ValueError(f"two gpuPools are called {pool.name}: give each a name of its own")
                if pool.selector == other.selector:
                    raise ValueError(
                        f"gpuPools {other.name} and {pool.name} select the same nodes: give each its own labels"
                    )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file, which comes in as arguments."""
        return env_settings, init_settings


def load_settings(path: Path | None) -> Settings:
    """Reads the file. Raises pydantic.ValidationError, yaml.YAMLError, TypeError, ValueError or OSError."""
    document = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    if not isinstance(document, dict | None):
        held = {"list": "a list", "str": "text"}.get(type(document).__name__, "a plain value")
        raise TypeError(f"{path} must hold fields and their values, not {held}")
    try:
        return Settings(**_by_field_name(Settings, document or {}))
    except SettingsError as error:
        raise ValueError(without_json(Settings, _PREFIX, _DELIMITER) or str(error)) from error


def _by_field_name(section: type[BaseModel], document: dict[str, Any]) -> dict[str, Any]:
    """The file's camelCase as field names, which are what the environment's values are merged with."""
    names = {to_camel(name): name for name in section.model_fields}
    renamed = {names.get(key, key): value for key, value in document.items()}
    for name, field in section.model_fields.items():
        kind, value = field.annotation, renamed.get(name)
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            renamed[name] = _by_field_name(kind, value)
    return renamed


def engine_settings(settings: Settings) -> EngineSettings:
    engine = settings.engine
    return EngineSettings(
        name="vLLM",
        version=engine.version,
        image=engine.image,
        image_pull_policy=engine.image_pull_policy,
        environment=tuple(sorted(engine.environment.items())),
        extra_arguments=tuple(engine.extra_arguments),
        start_allowance_seconds=engine.start_allowance_seconds,
        load_floor_bytes_per_second=engine.load_floor_bytes_per_second,
        hub_endpoint=str(settings.hub.endpoint).rstrip("/"),
        hub_environment=hub_environment(settings),
        cache=_cache_settings(settings.model_cache),
    )


def hub_environment(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Environment variables with which a pod's client reaches the Hub. Of the operator's own environment nothing is passed on."""
    proxy = settings.hub.proxy
    return tuple((name, str(proxy)) for name in ("HTTPS_PROXY", "HTTP_PROXY")) if proxy else ()


def pod_files(settings: Settings) -> dict[str, str]:
    """The files that pods of models mount, by name. Raises OSError for certificates that cannot be passed on."""
    authorities = settings.hub.ca_file
    if authorities is None:
        return engine_files()
    try:
        data = authorities.read_bytes()
    except OSError as error:
        raise OSError(f"hub.caFile {authorities} cannot be read: {error.strerror}") from error
    if len(data) > MAX_AUTHORITIES_BYTES:
        raise OSError(
            f"hub.caFile {authorities} has {len(data)} bytes, and {MAX_AUTHORITIES_BYTES} at most are copied to each model: "
            "name only the authorities that the Hub or its proxy is signed by, the public ones are trusted anyway"
        )
    text = data.decode(errors="ignore")  # a remark between certificates may be anything
    if "PRIVATE KEY-----" in text:
        raise OSError(
            f"hub.caFile {authorities} holds a private key, and its content is copied to each model: "
            "name a file that holds certificates alone"
        )
    return {**engine_files(), AUTHORITIES_FILE: text}


def _cache_settings(section: ModelCacheSection) -> CacheSettings | None:
    if section.kind == "EmptyDir":
        return None
    return CacheSettings(section.storage_class_name, section.access_mode)


def gpu_table(settings: Settings) -> GpuTable:
    """The shipped table with the configuration's rows and prices. Raises ValueError for a new product without compute capability."""
    table = shipped_table()
    for row in settings.gpu_table:
        table = table.with_row(row.product, _row_changes(row))
    prices = {row.product: row.price_per_hour for row in settings.gpu_table if row.price_per_hour is not None}
    return replace(table, prices={**prices, **settings.gpu_prices})


def _row_changes(row: GpuTableRow) -> dict[str, Any]:
    changes = {
        "memory_bytes": row.memory_mib and row.memory_mib * MIB,
        "compute_capability": row.compute_capability and ComputeCapability.parse(row.compute_capability),
        "bandwidth_bytes_per_second": row.bandwidth_gbs and int(row.bandwidth_gbs * GIGA),
        "flops_16bit": row.fp16_tflops and int(row.fp16_tflops * TERA),
        "flops_fp8": row.fp8_tflops and int(row.fp8_tflops * TERA),
        "flops_fp4": row.fp4_tflops and int(row.fp4_tflops * TERA),
        "ops_int8": row.int8_tops and int(row.int8_tops * TERA),
        "nvlink": row.nvlink,
    }
    return {name: value for name, value in changes.items() if value is not None}


def gpu_pools(settings: Settings) -> tuple[DeclaredPool, ...]:
    """The declared pools as planning knows them."""
    return tuple(
        DeclaredPool(
            name=pool.name,
            product=pool.product,
            gpus_per_node=pool.gpus_per_node,
            max_nodes=pool.max_nodes,
            selector=tuple(sorted(pool.node_selector.items())),
            tolerations=tuple(Toleration(**toleration.model_dump()) for toleration in pool.tolerations),
            memory_bytes=int(parse_quantity(pool.memory)) if pool.memory else None,
            compute_capability=ComputeCapability.parse(pool.compute_capability) if pool.compute_capability else None,
            price_per_hour=pool.price_per_hour,
        )
        for pool in settings.gpu_pools
    )


def inspector_settings(settings: Settings) -> InspectorSettings | None:
    """None where no image is named: then nothing is inspected. Raises as pod_files does."""
    if settings.inspector.image is None:
        return None
    files = pod_files(settings)
    return InspectorSettings(
        image=settings.inspector.image,
        image_pull_policy=settings.inspector.image_pull_policy,
        hub_endpoint=str(settings.hub.endpoint).rstrip("/"),
        environment=hub_environment(settings),
        redirect_hosts=tuple(settings.hub.redirect_hosts),
        files=files if AUTHORITIES_FILE in files else {},
    )


def hub_client(settings: Settings) -> Hub:
    """The Hub as the configuration describes it. Close it in the event loop that used it.

    Raises OSError for a cache folder, certificates, a proxy or its credentials that cannot be used.
    """
    file = TokenFile(settings.hub.token_file)
    return Hub(
        endpoint=str(settings.hub.endpoint).rstrip("/"),
        token=file.token,
        no_token=file.why_none,
        publishers=trusted_publishers(settings),
        connecting=Connecting(
            proxy=str(settings.hub.proxy) if settings.hub.proxy else None,
            proxy_credentials_file=settings.hub.proxy_credentials_file,
            ca_file=settings.hub.ca_file,
            redirect_hosts=tuple(settings.hub.redirect_hosts),
        ),
        cache_folder=settings.hub.cache_folder,
        cache_bytes=settings.hub.cache_bytes,
    )


def trusted_publishers(settings: Settings) -> tuple[str, ...]:
    """The most trusted first, each once."""
    discovery = settings.discovery
    return tuple(dict.fromkeys((*discovery.publishers, *discovery.additional_publishers)))
