"""Every call has a request ID, and what it leaves running is the server's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from server.bridge.dialects import DIALECTS
from server.current_call import context as call_context
from server.ingest.ingest import Ingest
from server.rpc.contract import SERVICES
from signalbox.v1 import event_ingest_pb2, projects_pb2
from tests.support.automations import automate
from tests.support.bridge import calling, http_client
from tests.support.connect import connecting, path_of
from tests.support.consumers import Engine, subscribe
from tests.support.messages import event

if TYPE_CHECKING:
    from tests.support.service import Client, Service

# The database has no part in it.
pytestmark = [pytest.mark.lasting, pytest.mark.parametrize("backend", ["sqlite"], indirect=True)]

METHODS = [method for service in SERVICES for method in service.methods]
GIVEN = "order-17.attempt-2"


async def answered(service: Service, path: str, body: bytes = b"", *, stream: bool = False, **sent: str) -> str:
    """Make a call over gRPC, and return the request ID of its trailing metadata."""
    metadata = [(name.replace("_", "-"), value) for name, value in sent.items()]
    make: Any = service.channel.stream_stream if stream else service.channel.unary_unary
    call = make(path)([body] if stream else body, metadata=metadata)
    await call.code()
    found = [value for name, value in await call.trailing_metadata() if name == call_context.REQUEST_ID]
    assert len(found) == 1
    return str(found[0])


async def test_every_rpc_answers_its_request_id_even_without_a_key(service: Service) -> None:
    async with http_client(service) as http:
        for method in METHODS:
            streams = method.client_streaming or method.server_streaming
            assert await answered(service, path_of(method), stream=streams, x_request_id=GIVEN) == GIVEN
            response = await http.post(path_of(method), content=b"{}", headers={"x-request-id": GIVEN})
            assert response.headers.get_list("x-request-id") == [GIVEN]


@pytest.mark.parametrize("given", ["", "two words", "a" * 129])
async def test_in_place_of_an_invalid_request_id_a_call_has_a_new_one(service: Service, given: str) -> None:
    path = path_of(METHODS[0])
    async with http_client(service) as http:
        found = [
            *[await answered(service, path, x_request_id=given) for _ in range(2)],
            *[
                (await http.post(path, content=b"{}", headers={"x-request-id": given})).headers["x-request-id"]
                for path in (path, path, "/nowhere", "/v1/events", "/healthz")
            ],
        ]
    assert len({*found, given}) == len(found) + 1
    assert all(each.isascii() and each.isprintable() and " " not in each for each in found)


async def test_every_dialect_answers_the_request_id(shop: Client, service: Service) -> None:
    for dialect in DIALECTS:
        async with calling(service, shop, dialect.name.value) as client:
            response = await client.call("GET /no/such/route", headers={"x-request-id": GIVEN})
            assert response.headers.get_list("x-request-id") == [GIVEN]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[call_context.CallContext]:
    """Record the callers whose events are sent."""
    found: list[call_context.CallContext] = []
    send = Ingest.send

    async def recording(*arguments: Any) -> Any:
        found.append(call_context.current())
        return await send(*arguments)

    monkeypatch.setattr(Ingest, "send", recording)
    return found


async def test_a_call_knows_its_key_its_project_and_its_door(
    shop: Client, service: Service, seen: list[call_context.CallContext]
) -> None:
    request = event_ingest_pb2.SendEventRequest(event=event())
    path = path_of(event_ingest_pb2.DESCRIPTOR.services_by_name["EventIngest"].methods_by_name["SendEvent"])
    admin = f"Bearer {service.admin.secret}"
    await answered(
        service,
        path,
        request.SerializeToString(),
        authorization=admin,
        signalbox_project=shop.project,
        x_request_id=GIVEN,
    )
    async with connecting(service, shop) as connect:
        await connect.call("SendEvent", request, x_request_id=GIVEN)
    async with calling(service, shop, "resend") as client:
        body = {"event": "Order Placed", "email": "ada@example.com", "payload": {}}
        await client.call("POST /events/send", body, {"x-request-id": GIVEN})
    keys = {
        key.id
        for key in (
            await service.admin.projects.ListApiKeys(projects_pb2.ListApiKeysRequest(project=shop.project))
        ).api_keys
    }
    assert [(each.request_id, each.project_id, each.api) for each in seen] == [
        (GIVEN, shop.project, "grpc"),
        (GIVEN, shop.project, "connect"),
        (GIVEN, shop.project, "resend"),
    ]
    assert seen[0].key_id == ""
    assert {seen[1].key_id, seen[2].key_id} <= keys
    assert seen[1].key_id != seen[2].key_id


class Recording(asyncio.tasks._PyTask):  # type: ignore[name-defined,misc]
    """A task whose context can be read."""


def running_for(request_id: str) -> dict[str, asyncio.Task[Any]]:
    """Return the tasks that run for a call, by name."""
    tasks: list[Any] = [task for task in asyncio.all_tasks() if isinstance(task, Recording)]
    callers = [(task, task._context.get(call_context._context, call_context.SERVER)) for task in tasks]
    return {task.get_name(): task for task, known in callers if known.request_id == request_id}


async def test_what_a_call_leaves_running_is_work_of_the_server(shop: Client) -> None:
    await automate(shop)
    await subscribe(shop)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coroutine, **more: Recording(coroutine, loop=loop, **more))
    try:
        engines = []
        for request_id in ("first", "second"):
            shop.metadata[:] = [*shop.metadata[:2], (call_context.REQUEST_ID, request_id)]
            engines.append(await Engine.open(shop))
        running = running_for("first")
        assert "read-consumer" in running
        await engines[0].close()
        _, left = await asyncio.wait(running.values(), timeout=10)
        assert not left
        assert "dispatch-matches" in running_for("")
        await engines[1].close()
    finally:
        loop.set_task_factory(None)
