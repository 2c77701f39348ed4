"""Matches as server-sent events."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from server.connect.server_sent_events import RETRY_MILLISECONDS
from signalbox.v1 import projects_pb2
from tests.support.automations import automate
from tests.support.bridge import http_client
from tests.support.messages import event, struct
from tests.support.raw_http import connection
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# How a request is read, and a stream ends, does not depend on the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

PATH = "/v1/matches/watch"
EARLIEST = {"start.log_end": "LOG_END_EARLIEST"}


@dataclass
class Block:
    """Some lines up to an empty one."""

    fields: dict[str, str] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)

    @property
    def data(self) -> Any:
        return json.loads(self.fields["data"])


async def blocks(response: httpx.Response) -> AsyncIterator[Block]:
    """Read a stream of events as its specification says."""
    block = Block()
    async for line in response.aiter_lines():
        if line == "":
            yield block
            block = Block()
        elif line.startswith(":"):
            block.comments.append(line[1:].strip())
        else:
            name, _, value = line.partition(":")
            block.fields[name] = value.removeprefix(" ")


@asynccontextmanager
async def watching(
    service: Service, secret: str, query: Any = (), **headers: str
) -> AsyncIterator[AsyncIterator[Block]]:
    sent = {"authorization": f"Bearer {secret}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with http_client(service) as http, http.stream("GET", PATH, params=query, headers=sent) as response:
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        yield blocks(response)


async def send(client: Client, total: int) -> str:
    return (await client.send(event(properties=struct({"order_total": total})))).event.id


def event_ids(block: Block) -> list[str]:
    return [match["event"]["id"] for match in block.data["matches"]]


async def test_matches_arrive_as_events_and_are_resumed_by_the_id_of_the_last_one(
    service: Service, shop: Client
) -> None:
    await automate(shop)
    async with watching(service, shop.secret) as found:
        first = await anext(found)
        assert (first.comments, first.fields["retry"]) == (["heartbeat"], str(RETRY_MILLISECONDS))
        sent = await send(shop, 1)
        one = await anext(found)
        assert event_ids(one) == [sent]
        assert one.data["matches"][0]["event"]["properties"] == {"order_total": 1}
        later = [await send(shop, 2), await send(shop, 3)]
    for last in (one.fields["id"], first.fields["id"]):
        async with watching(service, shop.secret, EARLIEST, last_event_id=last) as found:
            expected = later if last == one.fields["id"] else [sent, *later]
            assert event_ids(await anext(found)) == expected


@on_sqlite
async def test_a_query_selects_matches_and_where_to_start(service: Service, shop: Client) -> None:
    wanted = await automate(shop, labels={"team": "crm", "a.b": "c"})
    await automate(shop, name="Other", labels={"team": "shop"})
    sent = [await send(shop, 1), await send(shop, 2)]
    queries: list[list[tuple[str, str]]] = [
        [("filter.labels.team", "crm")],
        [("filter.labels.a.b", "c")],
        [("filter.automation_ids", wanted.id), ("filter.automation_ids", "none")],
        [("filter.event_names", "order_completed"), ("filter.labels.team", "crm"), ("max_matches", "10")],
    ]
    for query in queries:
        async with watching(service, shop.secret, [*query, *EARLIEST.items()]) as found:
            block = await anext(found)
            assert event_ids(block) == sent
            assert {match["automationId"] for match in block.data["matches"]} == {wanted.id}
    async with watching(service, shop.secret, {"start.after_position": "2"}) as found:
        assert set(event_ids(await anext(found))) == {sent[1]}


@on_sqlite
async def test_heartbeats_are_comments_that_advance_the_id(service: Service, shop: Client) -> None:
    await automate(shop)
    query = {"heartbeat_interval": "1s", "filter.event_names": "nothing_of_the_kind"}
    async with watching(service, shop.secret, query) as found:
        first = await anext(found)
        await send(shop, 1)
        async with asyncio.timeout(10):
            later = await anext(found)
        assert (later.comments, list(later.fields)) == (["heartbeat"], ["id"])
        assert later.fields["id"] != first.fields["id"]


@on_sqlite
@pytest.mark.parametrize(
    ("query", "status", "code", "text"),
    [
        ({"begin": "1"}, 400, "invalid_argument", "begin is not a parameter"),
        ({"start.cursor.x": "1"}, 400, "invalid_argument", "start.cursor.x is not a parameter"),
        ({"filter.labels": "1"}, 400, "invalid_argument", "filter.labels must be an object"),
        ({"start": "1"}, 400, "invalid_argument", "start must be an object"),
        ([("start", "1"), ("start.cursor", "x")], 400, "invalid_argument", "start.cursor is not a parameter"),
        ([("max_matches", "1"), ("max_matches", "2")], 400, "invalid_argument", "max_matches is given twice"),
        (
            {"max_matches": "many"},
            400,
            "invalid_argument",
            'max_matches must be a whole number from -2147483648 to 2147483647, not "many"',
        ),
        ({"max_matches": "1001"}, 400, "invalid_argument", "max_matches is 1,001"),
        ({"start.log_end": "NOW"}, 400, "invalid_argument", "start.log_end must be one of LOG_END_EARLIEST"),
        ({"start.cursor": "x"}, 400, "invalid_argument", "cursor"),
        ({"start.cursor": "x", "start.after_position": "1"}, 400, "invalid_argument", "is the second field of place"),
        ({"start.after_position": "99"}, 400, "out_of_range", "past the newest match"),
        ({"heartbeat_interval": "1"}, 400, "invalid_argument", 'such as "30s"'),
    ],
)
async def test_an_error_before_the_first_event_is_a_response_of_its_own(
    service: Service, shop: Client, query: Any, status: int, code: str, text: str
) -> None:
    async with http_client(service) as http:
        response = await http.get(PATH, params=query, headers={"authorization": f"Bearer {shop.secret}"})
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.json()["code"] == code
    assert text in response.json()["message"]


@on_sqlite
async def test_only_a_key_with_the_scope_watches_and_only_by_get(service: Service, shop: Client) -> None:
    other = await service.key(shop.project, "events:read")
    async with http_client(service) as http:
        for key, status, code in (("", 401, "unauthenticated"), (other.secret, 403, "permission_denied")):
            response = await http.get(PATH, headers={"authorization": f"Bearer {key}"} if key else {})
            assert (response.status_code, response.json()["code"]) == (status, code)
        response = await http.post(PATH, headers={"authorization": f"Bearer {shop.secret}"})
        assert (response.status_code, response.headers["allow"]) == (405, "GET")


@on_sqlite
async def test_an_error_after_the_first_event_is_the_last_one(service: Service, shop: Client) -> None:
    request = projects_pb2.CreateApiKeyRequest(project=shop.project, dialect=projects_pb2.DIALECT_NATIVE)
    made = await service.admin.projects.CreateApiKey(request)
    async with watching(service, made.secret) as found:
        await anext(found)
        await service.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=made.api_key.id))
        async with asyncio.timeout(10):
            rest = [block async for block in found]
    assert rest[-1].fields["event"] == "error"
    assert rest[-1].data["code"] == "unauthenticated"


async def test_a_shutdown_ends_the_events_with_an_error(store: Store) -> None:
    async with serving(store.url) as service:
        client = await service.shop()
        watch = watching(service, client.secret)
        found = await watch.__aenter__()
        await anext(found)
        ending = asyncio.ensure_future(anext(found))
    last = await ending
    assert (last.fields["event"], last.data["code"]) == ("error", "unavailable")
    await watch.__aexit__(None, None, None)


@on_sqlite
async def test_over_http_1_0_the_events_end_with_the_connection(service: Service, shop: Client) -> None:
    query = "start.log_end=LOG_END_LATEST"
    request = f"GET {PATH}?{query} HTTP/1.0\r\nauthorization: Bearer {shop.secret}\r\n\r\n"
    async with connection(service.http_address) as raw:
        await raw.send(request.encode())
        head, first = (await raw.part(b"\r\n\r\n")).decode(), (await raw.part(b"\n\n")).decode()
    assert "transfer-encoding" not in head
    assert "connection: close" in head
    assert first.startswith(f"retry: {RETRY_MILLISECONDS}\n: heartbeat\nid: ")
