"""HttpKubeApi against a small HTTP server that answers as it is told to: a fake, no API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from kubequant.cluster import api as api_module
from kubequant.cluster.api import ATTEMPTS, ApiError, HttpKubeApi
from kubequant.cluster.kinds import CONFIG_MAP, DEPLOYMENT, LEASE, NODE

BODY = {"metadata": {"namespace": "ns", "name": "m"}}


@dataclass
class FakeApiServer:
    """Answers each request with the next of `answers` (the last one again and again) and notes what it was asked."""

    answers: list[Callable[[web.Request], web.Response]] = field(default_factory=list)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    delay_seconds: float = 0.0
    under_way: int = 0
    most_under_way: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, str(request.rel_url), request.headers.get("Content-Type", "")))
        text = await request.text()
        self.bodies.append(json.loads(text) if text else None)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.delay_seconds)
        self.under_way -= 1
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        return answer(request)


def ok(**body: Any) -> Callable[[web.Request], web.Response]:
    return lambda _: web.json_response(body or BODY)


def refuse(status: int, reason: str = "", **headers: str) -> Callable[[web.Request], web.Response]:
    body = {"kind": "Status", "reason": reason, "message": f"it is {reason}"}
    return lambda _: web.json_response(body, status=status, headers=headers)


def cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


Use = Callable[[HttpKubeApi], Awaitable[Any]]


def ask(server: FakeApiServer, use: Use, concurrency: int = 4) -> Any:
    async def main() -> Any:
        runner = web.AppRunner(_application(server))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        api = HttpKubeApi(configuration, concurrency=concurrency)
        try:
            return await use(api)
        finally:
            await api.close()
            await runner.cleanup()

    return asyncio.run(main())


def _application(server: FakeApiServer) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    return app


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept between attempts."""
    real, slept = asyncio.sleep, []

    async def sleep(seconds: float, *_: Any) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(api_module.asyncio, "sleep", sleep)
    return slept


REQUESTS: dict[str, Use] = {
    "get": lambda api: api.get(DEPLOYMENT, "ns", "m"),
    "apply": lambda api: api.apply(DEPLOYMENT, BODY, field_manager="kubequant"),
    "create": lambda api: api.create(DEPLOYMENT, BODY),
    "replace": lambda api: api.replace(LEASE, BODY),
    "merge_patch": lambda api: api.merge_patch(DEPLOYMENT, "ns", "m", {"a": 1}),
    "delete": lambda api: api.delete(DEPLOYMENT, "ns", "m"),
}
IDEMPOTENT = sorted(REQUESTS.keys() - {"create"})


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_a_429_is_answered_with_patience(name: str, pauses: list[float]) -> None:
    server = FakeApiServer([refuse(429, "TooManyRequests", **{"Retry-After": "3"}), ok()])
    ask(server, REQUESTS[name])
    assert len(server.seen) == 2
    assert max(pauses) >= 3


def test_patience_has_a_limit(pauses: list[float]) -> None:
    server = FakeApiServer([refuse(429, "TooManyRequests", **{"Retry-After": "3600"})])
    with pytest.raises(ApiError) as caught:
        ask(server, REQUESTS["get"])
    assert caught.value.status == 429 and caught.value.is_passing
    assert len(server.seen) == ATTEMPTS
    assert max(pauses) <= api_module.LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("name", IDEMPOTENT)
def test_a_passing_failure_is_repeated_where_that_changes_nothing(name: str, status: int, pauses: list[float]) -> None:
    server = FakeApiServer([refuse(status, "InternalError"), ok()])
    ask(server, REQUESTS[name])
    assert len(server.seen) == 2


@pytest.mark.parametrize("answer", [refuse(500), refuse(503), refuse(504), cut])
def test_a_post_that_may_have_been_carried_out_is_not_repeated(
    answer: Callable[[web.Request], web.Response], pauses: list[float]
) -> None:
    server = FakeApiServer([answer, ok()])
    with pytest.raises(ApiError) as caught:
        ask(server, REQUESTS["create"])
    assert caught.value.is_passing
    assert len(server.seen) == 1


def test_a_cut_connection_is_repeated(pauses: list[float]) -> None:
    server = FakeApiServer([cut, ok()])
    assert ask(server, REQUESTS["get"]) == BODY


@pytest.mark.parametrize("status", [400, 401, 403, 409, 410, 422])
def test_a_refusal_is_told_at_once(status: int, pauses: list[float]) -> None:
    server = FakeApiServer([refuse(status, "Because")])
    with pytest.raises(ApiError, match=f"{status} Because: it is Because") as caught:
        ask(server, REQUESTS["apply"])
    assert not caught.value.is_passing
    assert caught.value.is_conflict == (status == 409)
    assert len(server.seen) == 1


def test_what_is_not_there_is_none_to_get_and_fine_to_delete(pauses: list[float]) -> None:
    assert ask(FakeApiServer([refuse(404, "NotFound")]), REQUESTS["get"]) is None
    ask(FakeApiServer([refuse(404, "NotFound")]), REQUESTS["delete"])
    with pytest.raises(ApiError) as caught:
        ask(FakeApiServer([refuse(404, "NotFound")]), REQUESTS["merge_patch"])
    assert caught.value.is_not_found


@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_that_is_no_json_is_an_api_error(status: int, pauses: list[float]) -> None:
    """A proxy in between may answer for itself."""
    server = FakeApiServer([lambda _: web.Response(text="<html>busy</html>", status=status)])
    with pytest.raises(ApiError, match="<html>busy") as caught:
        ask(server, REQUESTS["get"])
    assert caught.value.status == status


def test_nobody_there_is_a_passing_error(pauses: list[float]) -> None:
    async def main() -> None:
        configuration = client.Configuration()
        configuration.host = "http://127.0.0.1:9"
        api = HttpKubeApi(configuration)
        try:
            with pytest.raises(ApiError) as caught:
                await api.get(NODE, None, "n")
            assert caught.value.status == 0 and caught.value.is_passing
        finally:
            await api.close()

    asyncio.run(main())


def test_lists_are_read_page_by_page() -> None:
    def item(name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}}

    server = FakeApiServer(
        [
            ok(metadata={"continue": "a b&c"}, items=[item("1"), item("2")]),
            ok(metadata={"continue": ""}, items=[item("3")]),
        ]
    )

    async def use(api: HttpKubeApi) -> list[Any]:
        return [body async for body in api.list(CONFIG_MAP, label_selector="a=b")]

    bodies = ask(server, use)
    assert [body["metadata"]["name"] for body in bodies] == ["1", "2", "3"]
    assert all((body["apiVersion"], body["kind"]) == ("v1", "ConfigMap") for body in bodies)
    assert server.seen[0][1] == "/api/v1/configmaps?limit=50&labelSelector=a%3Db"
    assert server.seen[1][1].endswith("&continue=a+b%26c")


def test_an_expired_list_is_an_error_not_half_a_list() -> None:
    server = FakeApiServer([ok(metadata={"continue": "x"}, items=[]), refuse(410, "Expired")])

    async def use(api: HttpKubeApi) -> list[Any]:
        return [body async for body in api.list(NODE)]

    with pytest.raises(ApiError, match="410 Expired"):
        ask(server, use)


def test_apply_names_its_manager_and_says_what_it_is() -> None:
    server = FakeApiServer([ok()])
    ask(server, lambda api: api.apply(DEPLOYMENT, BODY, field_manager="kubequant-status", subresource="status"))
    method, url, content_type = server.seen[0]
    assert (method, content_type) == ("PATCH", "application/apply-patch+yaml")
    assert url == "/apis/apps/v1/namespaces/ns/deployments/m/status?fieldManager=kubequant-status&force=true"
    assert server.bodies == [BODY]


def test_a_deletion_may_be_bound_to_one_uid() -> None:
    server = FakeApiServer([ok()])
    ask(server, lambda api: api.delete(DEPLOYMENT, "ns", "m", uid="u-1"))
    assert server.bodies[0]["preconditions"] == {"uid": "u-1"}
    assert server.bodies[0]["propagationPolicy"] == "Background"


def test_a_deletion_may_be_bound_to_one_version() -> None:
    server = FakeApiServer([ok()])
    ask(server, lambda api: api.delete(DEPLOYMENT, "ns", "m", uid="u-1", resource_version="7"))
    assert server.bodies[0]["preconditions"] == {"uid": "u-1", "resourceVersion": "7"}


def test_a_deletion_that_meets_another_version_is_a_conflict() -> None:
    server = FakeApiServer([refuse(409, "Conflict")])
    with pytest.raises(ApiError) as caught:
        ask(server, lambda api: api.delete(DEPLOYMENT, "ns", "m", resource_version="7"))
    assert caught.value.is_conflict and len(server.seen) == 1


def test_a_deletion_that_is_bound_to_nothing_states_no_precondition() -> None:
    server = FakeApiServer([ok()])
    ask(server, REQUESTS["delete"])
    assert "preconditions" not in server.bodies[0]


def test_no_more_requests_are_under_way_than_allowed() -> None:
    server = FakeApiServer([ok()], delay_seconds=0.02)
    ask(server, lambda api: asyncio.gather(*(api.get(DEPLOYMENT, "ns", str(i)) for i in range(20))), concurrency=3)
    assert server.most_under_way == 3
    assert len(server.seen) == 20


def test_a_pause_frees_the_slot(pauses: list[float]) -> None:
    """A request that waits for its next attempt must not keep the others from theirs."""
    server = FakeApiServer([refuse(503), ok()])
    answers = ask(
        server, lambda api: asyncio.gather(*(api.get(DEPLOYMENT, "ns", str(i)) for i in range(5))), concurrency=1
    )
    assert answers == [BODY] * 5
