"""The character U+0000, which PostgreSQL cannot store: each text of each request refuses it, with the path."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from server.rpc.messages.structs import read_struct
from server.status import CODES
from signalbox.v1 import event_ingest_pb2, projects_pb2
from tests.support.contract import METHODS
from tests.support.messages import INDEPENDENT, event
from tests.support.refusals import Refusal, read_refusal, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

    from tests.support.service import Client, Service

NUL = "a\0b"
FREE_FORM = {"google.protobuf.Struct", "google.protobuf.Value"}
EVENT = "signalbox.v1.EventInput"
"""Its texts have rules of their own, which hold for every event of a batch by itself."""


def texts(kind: Descriptor, seen: tuple[str, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Yield the way from a message to each text in it; a message inside itself is entered once."""
    if kind.full_name in {*FREE_FORM, EVENT, *seen}:
        return
    for field in kind.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (field,)
        elif field.message_type is not None:
            for way in texts(field.message_type, (*seen, kind.full_name)):
                yield (field, *way)


def planted(method: MethodDescriptor, way: tuple[FieldDescriptor, ...]) -> tuple[Message, str]:
    """Return a request that holds U+0000 in one text, and the path of that text."""
    request: Any = GetMessageClass(method.input_type)()
    at, path = request, ""
    for field in way[:-1]:
        path += ("." if path else "") + field.name
        assert field.message_type is not None
        if field.message_type.GetOptions().map_entry:
            if way[-1].name == "key":
                getattr(at, field.name)[NUL] = "x"
            else:
                getattr(at, field.name)["x"] = NUL
            return request, path
        if field.is_repeated:
            getattr(at, field.name).add()
            at, path = getattr(at, field.name).add(), path + "[1]"
        else:
            getattr(at, field.name).SetInParent()
            at = getattr(at, field.name)
    path += ("." if path else "") + way[-1].name
    if way[-1].is_repeated:
        getattr(at, way[-1].name).extend(["x", NUL])
        path += "[1]"
    else:
        setattr(at, way[-1].name, NUL)
    return request, path


async def refused(client: Client, method: MethodDescriptor, request: Message) -> Refusal | None:
    """Make a call that should be refused. Return how; None if it is not."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    write, read = type(request).SerializeToString, GetMessageClass(method.output_type).FromString
    options: dict[str, Any] = {"metadata": client.metadata, "timeout": 10}

    async def stream() -> AsyncIterator[Message]:
        # grpcio reports INTERNAL of a call that is refused while it is still sending.
        await asyncio.sleep(0.05)
        yield request

    try:
        if method.client_streaming:
            async for _ in client.channel.stream_stream(path, write, read)(stream(), **options):
                return None
        elif method.server_streaming:
            async for _ in client.channel.unary_stream(path, write, read)(request, **options):
                return None
        else:
            await client.channel.unary_unary(path, write, read)(request, **options)
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    return None


TEXTS = [(name, way) for name, method in METHODS.items() for way in texts(method.input_type)]


@pytest.mark.parametrize("admin", [False, True], ids=["project", "admin"])
async def test_each_text_of_each_request_refuses_it_with_its_path(lasting_service: Service, admin: bool) -> None:
    client = await lasting_service.shop()
    assert len(TEXTS) > 100
    for name, way in TEXTS:
        method = METHODS[name]
        if (method.containing_service.name == "Projects") is not admin:
            continue
        request, path = planted(method, way)
        found = await refused(lasting_service.admin if admin else client, method, request)
        assert found is not None, (name, path)
        assert found.code is grpc.StatusCode.INVALID_ARGUMENT, (name, path, found)
        assert found.reason == "UNSTORABLE_TEXT", (name, path, found)
        assert found.violations == ((path, "UNSTORABLE_TEXT"),), (name, path, found)
        assert found.message == f"{path} contains the character U+0000, which cannot be stored"


REASONS = {
    "name": "INVALID_NAME",
    "contact_id": "CONTACT_NOT_FOUND",
    "email": "INVALID_ARGUMENT",
    "idempotency_key": "INVALID_ARGUMENT",
}


@pytest.mark.parametrize("field", REASONS)
@pytest.mark.parametrize("lenient", [False, True])
async def test_each_text_of_an_event_refuses_it_and_the_events_beside_it_are_recorded(
    lasting_service: Service, field: str, lenient: bool
) -> None:
    rules: dict[str, Any] = {
        "undefined_events": projects_pb2.UNDEFINED_EVENTS_ACCEPT,
        "unknown_contacts": projects_pb2.UNKNOWN_CONTACTS_CREATE,
    }
    client = await lasting_service.shop(**rules if lenient else {})
    sent = event()
    setattr(sent, field, NUL)
    found = await refusal(client.send(sent))
    assert (found.code, found.reason) == (CODES[REASONS[field]], REASONS[field])
    results = await client.send_all([event(), sent, event()], INDEPENDENT)
    assert [each.WhichOneof("outcome") for each in results] == ["receipt", "error", "receipt"]
    assert results[1].error.reason == REASONS[field]
    assert await client.positions() == [1, 2]


async def test_every_text_of_an_event_is_in_the_table() -> None:
    ways = {
        field.name
        for field in event_ingest_pb2.EventInput.DESCRIPTOR.fields
        if field.type == FieldDescriptor.TYPE_STRING
    }
    assert ways == set(REASONS)


async def test_payloads_hold_it_and_give_it_back(lasting_service: Service) -> None:
    client = await lasting_service.project(
        undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT, unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE
    )
    held: dict[str, Any] = {NUL: NUL, "list": [NUL, {NUL: None}]}
    payload = Struct()
    payload.update(held)
    await client.send(event(payload))
    (recorded,) = await client.log()
    assert read_struct(recorded.properties) == held
    contact = await client.upsert(properties=held)
    assert read_struct(contact.properties) == held
