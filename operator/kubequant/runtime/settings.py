"""The operator's configuration: a YAML file (`--config`), overridden by environment variables KUBEQUANT_...

Every field is documented where it stands; docs/configuration.md lists the same fields for users.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, HttpUrl
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kubequant.manifests.recipe import EngineSettings
from kubequant.planning.engines.vllm import VLLM_0_33

log = logging.getLogger(__name__)


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


class HubSection(Section):
    """The Hugging Face Hub, or a mirror of it."""

    endpoint: HttpUrl = HttpUrl("https://huggingface.co")
    """Reached by the operator and by the pods' download alike."""
    token_file: Path | None = None
    """File with the operator's own token, read anew at each use. It goes to the endpoint's host only."""


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
        env_prefix="KUBEQUANT_",
        env_nested_delimiter="__",
        extra="forbid",
    )

    engine: EngineSection = Field(default_factory=EngineSection)
    hub: HubSection = Field(default_factory=HubSection)
    leader_election: LeaderElectionSection = Field(default_factory=LeaderElectionSection)
    workers: Annotated[int, Field(ge=1, le=256)] = 32
    """Models that are worked on at the same time."""
    resync_seconds: Annotated[int, Field(ge=10)] = 300
    """A full list repairs what a broken watch lost."""
    http_host: str = "0.0.0.0"  # noqa: S104 - probes come from the node
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Probes and metrics; 0 takes any free port."""
    log_format: Annotated[str, Field(pattern="^(text|json)$")] = "text"
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"

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
    """Reads the file. Raises pydantic.ValidationError, yaml.YAMLError, TypeError or OSError."""
    document = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    if not isinstance(document, dict | None):
        raise TypeError(f"{path} must hold fields and their values, not a {type(document).__name__}")
    return Settings(**_by_field_name(Settings, document or {}))


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
    )


def hub_token(settings: Settings) -> str | None:
    """Read at each use, so that a rotated token counts at once. Without the file the Hub is asked anonymously."""
    file = settings.hub.token_file
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        log.warning("the Hub's token file cannot be read, the Hub is asked without a token: %s", error)
        return None
