"""What a pod template is rendered from: the part of a plan that a pod needs, and the engine it was planned with.

It is kept in the ControllerRevision, so that a changed `spec.pod` is rendered again from the same plan.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kubequant.planning.gpu_table import GPU_RESOURCE
from kubequant.planning.values import Toleration


@dataclass(frozen=True)
class CacheSettings:
    """The operator's configuration of cache volumes. `storage_class` None: the cluster's default."""

    storage_class: str | None
    access_mode: str


@dataclass(frozen=True)
class CacheVolume:
    """The claim that holds the weights once for all pods of a namespace that serve this commit, in place of their emptyDirs."""

    claim: str
    size_bytes: int
    storage_class: str | None
    access_mode: str


@dataclass(frozen=True)
class EngineSettings:
    """The operator's configuration of the engine and of what its pods download.

    `start_allowance_seconds` is what the engine may take to start beside loading (imports, graphs, compilation);
    `load_floor_bytes_per_second` the slowest disk that is still waited for. `hub_environment` is what an HTTP client needs to
    reach the hub (proxies); `cache` None: each pod downloads for itself.
    """

    name: str
    version: str
    image: str
    image_pull_policy: str
    environment: tuple[tuple[str, str], ...]
    extra_arguments: tuple[str, ...]
    start_allowance_seconds: int
    load_floor_bytes_per_second: int
    hub_endpoint: str
    hub_environment: tuple[tuple[str, str], ...] = ()
    cache: CacheSettings | None = None


@dataclass(frozen=True)
class Recipe:
    """Sizes in bytes. `gpu_memory_mib` is the least label nvidia.com/gpu.memory that the plan holds for; 0: not asked.

    `gpu_selector` are labels of a cloud or a declared pool, where GPU Feature Discovery may not have labelled the nodes;
    `gpu_memory_labelled` is False where it left out the memory; `tolerations` are those of the GPU class.
    """

    repository: str
    commit: str
    gpu_product: str
    gpu_memory_mib: int
    gpus: int
    arguments: tuple[str, ...]
    weight_bytes: int
    download_bytes: int
    token_secret: tuple[str, str] | None  # (name, key)
    engine: EngineSettings
    gpu_resource: str = GPU_RESOURCE
    gpu_selector: tuple[tuple[str, str], ...] = ()
    gpu_memory_labelled: bool = True
    tolerations: tuple[Toleration, ...] = ()
    checksums: str = ""  # of all files (hub/checksums.py); "" where the hub names none
    cache: CacheVolume | None = None
    claim: tuple[str, str] | None = (
        None  # (name, folder) of the user's volume that holds the model; None: it is downloaded
    )

    @property
    def start_budget_seconds(self) -> int:
        """How long loading and starting may take, the download aside."""
        return self.engine.start_allowance_seconds + -(-self.weight_bytes // self.engine.load_floor_bytes_per_second)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Reads what `to_json` wrote, fields of newer versions ignored. Raises KeyError where one is missing."""
        engine = data["engine"]
        secret, claim = data.get("token_secret"), data.get("claim")
        return cls(
            repository=data["repository"],
            commit=data["commit"],
            gpu_product=data["gpu_product"],
            gpu_memory_mib=data["gpu_memory_mib"],
            gpus=data["gpus"],
            arguments=tuple(data["arguments"]),
            weight_bytes=data["weight_bytes"],
            download_bytes=data["download_bytes"],
            token_secret=(secret[0], secret[1]) if secret else None,
            engine=EngineSettings(
                name=engine["name"],
                version=engine["version"],
                image=engine["image"],
                image_pull_policy=engine["image_pull_policy"],
                environment=tuple((name, value) for name, value in engine["environment"]),
                extra_arguments=tuple(engine["extra_arguments"]),
                start_allowance_seconds=engine["start_allowance_seconds"],
                load_floor_bytes_per_second=engine["load_floor_bytes_per_second"],
                hub_endpoint=engine["hub_endpoint"],
                hub_environment=tuple((name, value) for name, value in engine.get("hub_environment", ())),
                cache=CacheSettings(**engine["cache"]) if engine.get("cache") else None,
            ),
            gpu_resource=data.get("gpu_resource", GPU_RESOURCE),
            gpu_selector=tuple((key, value) for key, value in data.get("gpu_selector", ())),
            gpu_memory_labelled=data.get("gpu_memory_labelled", True),
            tolerations=tuple(Toleration(**toleration) for toleration in data.get("tolerations", ())),
            checksums=data.get("checksums", ""),
            cache=CacheVolume(**data["cache"]) if data.get("cache") else None,
            claim=(claim[0], claim[1]) if claim else None,
        )
