"""The contract, read from its descriptors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from signalbox.v1 import (
    audit_pb2,
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    projects_pb2,
    refusals_pb2,
)
from tests.support.refusals import read_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from tests.support.refusals import Refusal

SERVICES = [
    service
    for module in (
        audit_pb2,
        automations_pb2,
        contacts_pb2,
        event_definitions_pb2,
        event_ingest_pb2,
        match_stream_pb2,
        projects_pb2,
        refusals_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]

METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method for service in SERVICES for method in service.methods
}


async def call_method(
    channel: grpc.aio.Channel, method: MethodDescriptor, metadata: list[tuple[str, str]], **fields: Any
) -> Message:
    """Call a unary method with the fields of its request."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(path, request.SerializeToString, answer.FromString)
    response: Message = await call(request(**fields), metadata=metadata)
    return response


async def met(channel: grpc.aio.Channel, method: MethodDescriptor, metadata: list[tuple[str, str]]) -> Refusal | None:
    """Call a method with an empty request, and return its refusal."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    try:
        if method.client_streaming:
            stream = channel.stream_stream(path, request.SerializeToString, answer.FromString)
            # One answer says enough; a stream of answers may have no end.
            async for _ in (calling := stream(_in_a_moment(request()), metadata=metadata, timeout=5)):
                calling.cancel()
                break
        elif method.server_streaming:
            answers = channel.unary_stream(path, request.SerializeToString, answer.FromString)
            async for _ in (answering := answers(request(), metadata=metadata, timeout=5)):
                answering.cancel()
                break
        else:
            call = channel.unary_unary(path, request.SerializeToString, answer.FromString)
            await call(request(), metadata=metadata, timeout=5)
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    return None


async def _in_a_moment(request: Message) -> AsyncIterator[Message]:
    """Send a request when a refusal would have come: grpcio says INTERNAL of a call that is refused while it sends."""
    await asyncio.sleep(0.1)
    yield request
