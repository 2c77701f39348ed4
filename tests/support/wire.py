"""Requests built byte by byte, as no library would build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc


def field(number: int, payload: bytes) -> bytes:
    """Write a field of the wire type that has a length."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def nested_struct(depth: int, name: bytes = b"x") -> bytes:
    """Encode `depth` nested Structs, each under the same name."""
    struct = b""
    for _ in range(depth):
        value = field(5, struct)  # Value.struct_value
        struct = field(1, field(1, name) + field(2, value))  # Struct.fields: key and value
    return struct


def send_event(properties: bytes, name: bytes = b"order_completed", email: bytes = b"ada@example.com") -> bytes:
    """Write a SendEventRequest."""
    return field(1, field(1, name) + field(3, email) + field(4, properties))


async def call_raw(channel: grpc.aio.Channel, method: str, request: bytes, metadata: list[tuple[str, str]]) -> bytes:
    """Call a unary method of signalbox.v1 with bytes: `call_raw(channel, "EventIngest/SendEvent", ...)`."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/signalbox.v1.{method}")
    return await call(request, metadata=metadata)
