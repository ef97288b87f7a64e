"""Reads how far a download is, from the small port of download.py. Unreachable or unreadable means unknown."""

from __future__ import annotations

import json
import logging
from typing import Any

import aiohttp

from kubequant.manifests.pod import STATUS_PORT
from kubequant.reconcile.downloads import Progress

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
MAX_BYTES = 64 * 1024
MAX_COUNT = 2**53  # what JSON numbers hold for certain


async def read_download_progress(session: aiohttp.ClientSession, address: str) -> Progress | None:
    """Of the pod at `address`, None when it does not tell."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{STATUS_PORT}/status"
    try:
        async with session.get(
            url, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), allow_redirects=False
        ) as response:
            if response.status != 200:
                return None
            page = bytearray()
            async for chunk in response.content.iter_chunked(MAX_BYTES):
                page += chunk
                if len(page) > MAX_BYTES:
                    return None
        return progress_in(bytes(page))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.debug("the download at %s does not tell: %s", address, error)
        return None


def progress_in(page: bytes) -> Progress | None:
    """From what a pod answers, which may be anything."""
    try:
        document: Any = json.loads(page)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("phase") != "Downloading":
        return None
    done, total = document.get("downloaded_bytes"), document.get("total_bytes")
    if type(done) is not int or type(total) is not int or not 0 <= done <= total or not 0 < total <= MAX_COUNT:
        return None
    return Progress(done, total)
