"""What the rest of the house is given of the settings: the Hub, the engine, what pods get."""

from __future__ import annotations

from kubequant.hub.client import Hub
from kubequant.hub.session import Connecting
from kubequant.manifests.children import AUTHORITIES_FILE, engine_files
from kubequant.manifests.inspector import InspectorSettings
from kubequant.manifests.recipe import CacheSettings, EngineSettings
from kubequant.runtime.sections import ModelCacheSection
from kubequant.runtime.settings import Settings
from kubequant.runtime.token_file import TokenFile

MAX_AUTHORITIES_BYTES = 64 * 1024  # each model has a copy: a thousand of them lie in etcd as 64 MiB


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
