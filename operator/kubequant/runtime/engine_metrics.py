"""Reads what a running engine says of itself, from its own /metrics. Unreachable or unreadable means unknown."""

from __future__ import annotations

import logging

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from kubequant.manifests.pod import HTTP_PORT
from kubequant.planning.engines.vllm import CACHE_INFO_METRIC, CACHE_TOKENS_LABEL, METRICS_PATH

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
MAX_BYTES = 4 * 2**20


async def read_kv_cache_tokens(session: aiohttp.ClientSession, address: str) -> int | None:
    """KV-cache tokens of the engine in the pod at `address`, None when it does not tell."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{HTTP_PORT}{METRICS_PATH}"
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)) as response:
            if response.status != 200:
                return None
            page = bytearray()
            async for chunk in response.content.iter_chunked(64 * 1024):
                page += chunk
                if len(page) > MAX_BYTES:
                    return None
        return kv_cache_tokens(page.decode("utf-8", "replace"))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        log.debug("engine at %s does not tell: %s", address, error)
        return None


def kv_cache_tokens(text: str) -> int | None:
    """From the text of /metrics. Raises ValueError when it is not of the exposition format."""
    for family in text_string_to_metric_families(text):
        if family.name == CACHE_INFO_METRIC:
            tokens = [sample.labels.get(CACHE_TOKENS_LABEL, "") for sample in family.samples]
            return next((int(value) for value in tokens if value.isdigit()), None)
    return None
