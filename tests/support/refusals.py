"""Refused calls: their status, reason and details."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")


@dataclass(frozen=True)
class Refusal:
    """The status of a call, with its details taken out of their wrapping."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] | None = None
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None


async def refusal(call: Awaitable[Any]) -> Refusal:
    """Expect a call to be refused, and return its refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return read_refusal(caught.value)


async def verdict(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Expect a call to be refused, and return its code and reason."""
    refused = await refusal(call)
    return refused.code, refused.reason


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read the rich status that came with an error; one that came from gRPC itself has none."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if packed is None:
        return Refusal(error.code(), error.details() or "")
    assert isinstance(packed, bytes)
    status = Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = _detail(status, ErrorInfo) or ErrorInfo()
    bad = _detail(status, BadRequest) or BadRequest()
    retry = _detail(status, RetryInfo)
    return Refusal(
        error.code(),
        status.message,
        info.reason,
        info.domain,
        dict(info.metadata),
        tuple((each.field, each.reason) for each in bad.field_violations),
        None if retry is None else retry.retry_delay.ToTimedelta().total_seconds(),
    )


def _detail(status: Status, kind: type[M]) -> M | None:
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None
