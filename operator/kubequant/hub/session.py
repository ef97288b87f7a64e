"""One client for the process: one pool of connections, one rate limit, one breaker a host, and where a request may lead.

huggingface_hub's own session is shared with whatever else is imported, closes on a failed connection, sleeps until a
rate limit resets (up to five minutes) and reads answers without a bound: its words are used here (URLs, headers,
errors, ModelInfo), not its requests.

The token goes to the endpoint's origin alone: scheme, host and port.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from random import Random
from typing import Any

import httpx2
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from kubequant.hub import deadlines
from kubequant.hub.breaker import Breaker
from kubequant.hub.limits import API, ELSEWHERE, FILES, PATIENCE_SECONDS, RateLimits, ThrottledError

TIMEOUT_SECONDS = 10.0  # to connect, and between two reads
REQUEST_SECONDS = 30.0  # for all of one request: its redirects, its headers, its body
CONNECTIONS = 32  # of the process: no more requests are under way at once
_POOLED = (
    2 * CONNECTIONS
)  # most requests are redirected: the hub's connections need not make room for those to its files
MAX_REDIRECTS = 5
_MAX_HOSTS = 64  # whose breakers are remembered
_SILENCES = 3
_JITTER_SECONDS = 0.25
_SHOWN_CHARACTERS = 150  # of an error, before the proxy is named
_REDIRECT_BODY_BYTES = 16_384
_KEEP_ALIVE_SECONDS = 30.0


class RedirectError(Exception):
    """A redirect that is not followed. The text says where to and why."""


@dataclass(frozen=True)
class Connecting:
    """How a hub is reached.

    `proxy` is a URL; None: as HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment say. `proxy_credentials_file` holds
    its `user:password`. `ca_file` holds PEM certificates to trust beside the system's. `redirect_hosts` are the only hosts beside the
    endpoint's that redirects may lead to, `*.` before a name for those below it; empty: any.
    """

    proxy: str | None = None
    proxy_credentials_file: Path | None = None
    ca_file: Path | None = None
    redirect_hosts: tuple[str, ...] = ()
    timeout_seconds: float = TIMEOUT_SECONDS
    request_seconds: float = REQUEST_SECONDS


@dataclass(frozen=True)
class Clocks:
    """Time and chance, for tests to replace. `monotonic` in seconds, `now` the time of day in UTC; without `sleep` a thread
    waits until the session is closed at the latest."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    random: Random = field(default_factory=Random)
    sleep: Callable[[float], object] | None = None


class Session:
    """One hub. For all threads. `endpoint` without a slash at its end."""

    def __init__(self, endpoint: str, connecting: Connecting, clocks: Clocks) -> None:
        """Raises OSError for a `ca_file`, a proxy or its credentials that cannot be used."""
        self.endpoint = endpoint
        self._url = httpx2.URL(endpoint)
        self._connecting = connecting
        self._clocks = clocks
        self._limits = RateLimits(clocks.monotonic, clocks.random)
        self._breakers: dict[str, Breaker] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._sleep = clocks.sleep or self._closed.wait
        self._client = _client(connecting)
        _keep_deadlines(self._client)

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], params: Mapping[str, Any] | None = None
    ) -> Iterator[httpx2.Response]:
        """The answer to a GET, unread, after redirects: those stand in its `history`, read.

        Raises ThrottledError, OpenError, RedirectError, OfflineModeIsEnabled and httpx2's TransportError. What is raised inside
        is seen: a body that breaks off and a 5xx count as failures of the host.
        """
        if is_offline_mode():
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        request = self._client.build_request("GET", url, headers=headers, params=params)
        history: list[httpx2.Response] = []
        while True:
            with self._hop(request) as response:
                if response.next_request is None:
                    _refuse_aimless(response)
                    response.history = history
                    yield response
                    return
                read_at_most(response, _REDIRECT_BODY_BYTES)
                history.append(response)
                request = self._followed(response.next_request, history)

    @property
    def is_throttled(self) -> bool:
        """The hub's last answer was a 429."""
        return self._limits.is_refusing

    def close(self) -> None:
        """Requests that are under way fail."""
        self._closed.set()
        self._client.close()

    @contextmanager
    def _hop(self, request: httpx2.Request) -> Iterator[httpx2.Response]:
        """One request and its answer, seen by the limits and by the breaker of its host."""
        kind, breaker = self._kind(request.url), self._breaker(request.url)
        self._await_turn(kind)
        try:
            probe = breaker.enter()
        except BaseException:
            self._limits.lost(kind, sent=False)
            raise
        try:
            with deadlines.within(self._connecting.request_seconds), self._answer(request, kind) as response:
                yield response
        except (httpx2.TransportError, HfHubHTTPError) as error:
            answered = isinstance(error, HfHubHTTPError)
            if cause := _failure(error):
                try:
                    breaker.failed(probe, cause, _repository(request.url) if kind == FILES and answered else "")
                except Exception as opened:
                    raise opened from error
            else:
                breaker.succeeded()
            raise
        except BaseException:
            breaker.succeeded()  # it answered; what it said was of no use, or that it wants patience
            raise
        else:
            breaker.succeeded()

    def _await_turn(self, kind: str) -> None:
        """A short silence is waited out here, a few times if others meet new ones. Raises ThrottledError for a longer one."""
        for _ in range(_SILENCES):
            try:
                self._sleep(self._limits.take(kind))
                return
            except ThrottledError as throttled:
                if throttled.retry_after_seconds > PATIENCE_SECONDS:
                    raise
                self._sleep(throttled.retry_after_seconds + self._clocks.random.uniform(0.0, _JITTER_SECONDS))
        self._sleep(self._limits.take(kind))

    @contextmanager
    def _answer(self, request: httpx2.Request, kind: str) -> Iterator[httpx2.Response]:
        try:
            with self._proxy_named(request.url):
                response = self._client.send(request, stream=True)
                if response.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                    response.close()
                    raise httpx2.ProxyError(f"{response.status_code} {response.reason_phrase}"[:80])
        except BaseException:
            self._limits.lost(kind)
            raise
        try:
            self._limits.answered(kind, response.headers, refused=response.status_code == HTTPStatus.TOO_MANY_REQUESTS)
            yield response
        finally:
            response.close()

    @contextmanager
    def _proxy_named(self, url: httpx2.URL) -> Iterator[None]:
        """A connection that fails at a proxy must not look like the hub's fault."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            proxy = _proxy_to(self._client, url)
            if proxy is None:
                raise
            where = "hub.proxy" if self._connecting.proxy else "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY of the environment"
            advice = "; its user:password go into hub.proxyCredentialsFile" if str(error).startswith("407") else ""
            text = str(error)[:_SHOWN_CHARACTERS].rstrip(". ") or "no answer"
            raise type(error)(f"{text}, through the proxy {proxy} (by {where}{advice})") from error

    def _followed(self, request: httpx2.Request, history: list[httpx2.Response]) -> httpx2.Request:
        """The request that a redirect leads to. Raises RedirectError."""
        url, host = request.url, request.url.host
        if url.scheme not in ("https", self._url.scheme):
            raise RedirectError(f"it redirects from {self._url.scheme} to {url.scheme}://{host}, which is not followed")
        if history[-1].request.url.scheme == "https" and url.scheme != "https":
            raise RedirectError(f"it redirects from https to {url.scheme}://{host}, which is not followed")
        allowed = self._connecting.redirect_hosts
        if allowed and host != self._url.host and not any(_matches(host, pattern) for pattern in allowed):
            raise RedirectError(
                f"it redirects to {host}, which hub.redirectHosts ({', '.join(allowed)}) does not name. "
                "Add the host to that setting of the operator, or let the endpoint serve the files itself."
            )
        if any(url == passed.request.url for passed in history):
            raise RedirectError(f"it redirects in a circle, back to {host}{url.path}"[:200])
        if len(history) > MAX_REDIRECTS:
            raise RedirectError(f"it redirects more than {MAX_REDIRECTS} times, in the end to {host}")
        if url.origin != self._url.origin:
            request.headers.pop("authorization", None)
        return request

    def _kind(self, url: httpx2.URL) -> str:
        if url.origin != self._url.origin:
            return ELSEWHERE
        return API if url.path.startswith(f"{self._url.path.rstrip('/')}/api/") else FILES

    def _breaker(self, url: httpx2.URL) -> Breaker:
        with self._lock:
            name = str(url.origin)
            if name not in self._breakers:
                if len(self._breakers) >= _MAX_HOSTS:
                    del self._breakers[next(iter(self._breakers))]
                host = "it" if url.origin == self._url.origin else f"{url.host}, where its files are,"
                self._breakers[name] = Breaker(host, self._clocks.monotonic, self._clocks.now, self._clocks.random)
            return self._breakers[name]


def read_at_most(response: httpx2.Response, limit: int) -> bytes:
    """The body; of one longer than `limit` bytes a little more than those, and its connection is closed unread.

    A body that is compressed, though none was asked for, counts as it unfolds, a MB at most at a time.
    """
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > limit:
            break
    return bytes(data)


def _client(connecting: Connecting) -> httpx2.Client:
    trusted = _trusted(connecting.ca_file)
    try:
        return httpx2.Client(
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # one identity's must not speak for another
            verify=trusted,
            proxy=_proxy(connecting),
            timeout=connecting.timeout_seconds,
            limits=httpx2.Limits(
                max_connections=_POOLED,
                max_keepalive_connections=_POOLED,
                keepalive_expiry=_KEEP_ALIVE_SECONDS,
            ),
        )
    except (ImportError, ValueError, httpx2.InvalidURL):  # its text would repeat the password
        where = "hub.proxy" if connecting.proxy else "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY of the environment"
        raise OSError(f"{where} is no URL of a proxy that speaks HTTP, such as http://proxy.example.com:3128") from None


def _proxy(connecting: Connecting) -> httpx2.Proxy | None:
    if connecting.proxy is None:
        return None
    file = connecting.proxy_credentials_file
    return httpx2.Proxy(connecting.proxy, auth=_credentials(file) if file else None)


def _credentials(file: Path) -> tuple[str, str]:
    """Of a file's one line. Its content stands in no message."""
    try:
        user, colon, password = file.read_bytes().decode().rstrip("\r\n").partition(":")
    except OSError as error:
        raise OSError(f"hub.proxyCredentialsFile cannot be read: {error}") from error
    except UnicodeDecodeError:
        raise OSError(f"hub.proxyCredentialsFile {file} is no text in UTF-8") from None
    if not (user and colon) or "\n" in user + password:
        raise OSError(f"hub.proxyCredentialsFile {file} must hold one line: user:password")
    return user, password


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise OSError(f"hub.caFile {ca_file} holds no certificates in PEM that can be read: {error}") from error
    return context


def _keep_deadlines(client: httpx2.Client) -> None:
    # httpx2 hands its connection pool no network backend, though the pool takes one.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = deadlines.Backend()


def _proxy_to(client: httpx2.Client, url: httpx2.URL) -> str | None:
    """The proxy that requests to a URL go through, without its password."""
    proxy = getattr(getattr(client._transport_for_url(url), "_pool", None), "_proxy_url", None)
    return f"{proxy.scheme.decode()}://{proxy.host.decode()[:80]}:{proxy.port}" if proxy else None


def _repository(url: httpx2.URL) -> str:
    """Whose file a URL of the hub leads to."""
    return url.path.partition("/resolve/")[0]


def _refuse_aimless(response: httpx2.Response) -> None:
    if response.is_redirect and response.status_code != HTTPStatus.NOT_MODIFIED:
        raise RedirectError(f"it answers HTTP {response.status_code}, a redirect, without a place to go to")


def _failure(error: httpx2.HTTPError) -> str:
    """What to remember of a failure that says something about the host; empty for an answer that is none."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return (
            f"HTTP {status} {error.response.reason_phrase}"[:80] if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ""
        )
    return cause_of(error)


def cause_of(error: Exception) -> str:
    """A failed connection in words: kind and text, bounded."""
    text = f"{type(error).__name__}: {error}"[:400].rstrip(".: ")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}. Its certificate is not trusted: name the file of its CA in hub.caFile"
    return text


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
