"""The operator's configuration: a YAML file (`--config`), overridden by environment variables KUBEQUANT_...

The fields of its sections stand in sections.py; what the rest of the house is given of them is made in configured.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from kubernetes.utils.quantity import parse_quantity
from pydantic import BaseModel, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from kubequant.planning.gpu_table import GIGA, MIB, TERA, GpuTable, shipped_table
from kubequant.planning.pools import DeclaredPool, pool_class
from kubequant.planning.values import ComputeCapability, Toleration
from kubequant.runtime.sections import (
    DiscoverySection,
    EngineSection,
    GpuPoolSection,
    GpuTableRow,
    HubSection,
    InspectorSection,
    LeaderElectionSection,
    ModelCacheSection,
    Price,
    Product,
)
from kubequant.runtime.spelling import without_json

_PREFIX, _DELIMITER = "KUBEQUANT_", "__"  # of the environment's variables


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
