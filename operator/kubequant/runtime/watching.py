"""kopf as informer: `on.event` handlers that hand each event over and write nothing to any object.

kopf ends when the server answers a watch with an error that it does not know (a 500 in the stream). It is started again
in this process, with back-off; only after several failures in a row does the process end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import kopf
from kopf._core.engines.peering import Identity
from kubernetes.aio import client

from kubequant.cluster import kinds
from kubequant.cluster.api import load_configuration
from kubequant.cluster.kinds import Kind
from kubequant.manifests.names import OWNED_SELECTOR
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.store import WATCHED

log = logging.getLogger(__name__)

Observer = Callable[[Kind, str | None, Mapping[str, Any]], None]

FAILURES_TO_GIVE_UP = 8
# Of no use without peering; left to itself kopf asks for the user's name, which an id without a passwd entry does not have.
IDENTITY = Identity("kubequant")
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 60.0  # a run of this length forgives the failures before it


class WatchingFailedError(Exception):
    """The watches failed several times in a row."""


async def watch(
    observe: Observer,
    *,
    kubeconfig: str | None,
    stop: asyncio.Event,
    started: Callable[[], None],
    ended: Callable[[], None],
) -> None:
    """Watches until `stop`, or until the process is told to end. Raises WatchingFailedError.

    `started` is called whenever the watches run (anew), `ended` whenever they do not any more.
    """
    failures = 0
    while not stop.is_set():
        began = time.monotonic()
        try:
            await _run(observe, kubeconfig, stop, started)
            return  # told to end, by the flag or by a signal
        except asyncio.CancelledError:
            raise
        except Exception as error:
            failures = 1 if time.monotonic() - began > HEALTHY_SECONDS else failures + 1
            if failures >= FAILURES_TO_GIVE_UP:
                raise WatchingFailedError(f"the watches failed {failures} times in a row, last: {error}") from error
            pause = min(LONGEST_PAUSE_SECONDS, 0.5 * 2**failures) * random.uniform(0.5, 1)  # noqa: S311
            log.warning("the watches failed (%s), started again in %.1f s", error, pause)
        finally:
            ended()
        await _pause(stop, pause)


def _hear_signals(stop: asyncio.Event) -> None:
    """kopf takes the signals at its start: its own end takes five seconds, and leaves nobody to hear them afterwards."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    _hear_signals(stop)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _run(observe: Observer, kubeconfig: str | None, stop: asyncio.Event, started: Callable[[], None]) -> None:
    """Returns when told to end; raises what ended the watches otherwise."""
    loop = asyncio.get_running_loop()
    ready: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def on_ready(future: concurrent.futures.Future[Any]) -> None:
        if not future.cancelled():
            loop.call_soon_threadsafe(_hear_signals, stop)
            started()

    ready.add_done_callback(on_ready)
    watching = asyncio.create_task(
        kopf.operator(
            registry=_registry(observe, kubeconfig),
            settings=_settings(),
            standalone=True,
            clusterwide=True,
            identity=IDENTITY,
            ready_flag=ready,
        )
    )
    # Made before kopf looks which tasks are not its own: it cancels all others when it ends.
    told = asyncio.create_task(stop.wait())
    await asyncio.wait({watching, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not watching.done():
        # Cancelled, kopf does not wait the seconds that it gives to handlers: ours write nothing.
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return
    watching.result()


def _registry(observe: Observer, kubeconfig: str | None) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    for kind in WATCHED:
        _register(registry, kind, observe)

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        # By the official loader: kopf's own knows neither exec plugins nor OIDC, and in a pod only a name that needs cluster DNS.
        return await _connection(await load_configuration(kubeconfig))

    return registry


async def _connection(configuration: client.Configuration) -> kopf.ConnectionInfo:
    bearer = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = bearer.rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        ca_data=configuration.ca_cert_data,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme or None,
        token=token or None,
    )


def _register(registry: kopf.OperatorRegistry, kind: Kind, observe: Observer) -> None:
    group, _, version = kind.api_version.rpartition("/")

    @kopf.on.event(group, version, kind.plural, registry=registry, id=f"observe-{kind.plural}")
    async def seen(event: Mapping[str, Any], **_: Any) -> None:
        body = event["object"]
        observe(kind, event["type"], {"apiVersion": kind.api_version, "kind": kind.kind, **body})


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # Events are our own (cluster.events)
    settings.scanning.disabled = True  # spares the rights to list namespaces and CustomResourceDefinitions
    settings.queueing.idle_timeout = 0.1  # a task for each object, five seconds long, is memory for nothing
    settings.watching.chunk_size = 20  # a chunk of each kind is held whole, and all kinds are listed at once
    settings.watching.reconnect_backoff = 0.5
    settings.networking.request_timeout = 30
    for kind in WATCHED:
        if kind not in (QUANTIZED_MODEL, kinds.NODE):
            group = kind.api_version.rpartition("/")[0]
            settings.watching.label_selectors[group, kind.plural] = OWNED_SELECTOR
    return settings
