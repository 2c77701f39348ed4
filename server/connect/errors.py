"""Errors as Connect has them: a code in lower case, a message, and details that are readable in JSON."""

from __future__ import annotations

import base64
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode

from registry.errors import SignalboxError
from server.rpc.json_writing import json_value
from server.rpc.rich_status import error_details
from server.status import code_of, message_of, reason_of

if TYPE_CHECKING:
    from google.protobuf.message import Message

_CODES: Final = {"UNSUPPORTED_ENCODING": StatusCode.UNIMPLEMENTED, "ROUTE_NOT_FOUND": StatusCode.UNIMPLEMENTED}
"""The codes of reasons for which Connect has another one than the other APIs."""

_STATUSES: Final = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.INTERNAL: 500,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}

_PRECISE_STATUSES: Final = {"ROUTE_NOT_FOUND": 404, "METHOD_NOT_ALLOWED": 405, "UNSUPPORTED_MEDIA_TYPE": 415}
"""The statuses of requests that are not of the protocol."""


STATUSES: Final = tuple(sorted({*_STATUSES.values(), *_PRECISE_STATUSES.values()}))
"""Every HTTP status of an error."""

PRECISE_STATUSES: Final = tuple(sorted(_PRECISE_STATUSES.values()))
"""The statuses of requests that break the protocol. Only these are statuses of streams, too: other errors end them."""


def connect_code(error: Exception) -> StatusCode:
    """Return the code of an error."""
    return _CODES.get(reason_of(error)) or code_of(error)


def connect_status(error: Exception) -> int:
    """Return the HTTP status of an error, where it is not the end of a stream."""
    return _PRECISE_STATUSES.get(reason_of(error)) or _STATUSES[connect_code(error)]


def error_json(error: Exception) -> dict[str, Any]:
    """Return an error as JSON values."""
    return {
        "code": connect_code(error).name.lower(),
        "message": message_of(error),
        "details": [_detail_json(detail) for detail in error_details(error)],
    }


def retry_headers(error: Exception) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that say when to try again."""
    if isinstance(error, SignalboxError) and error.retry_after:
        return ((b"retry-after", str(ceil(error.retry_after)).encode()),)
    return ()


def _detail_json(detail: Message) -> dict[str, Any]:
    return {
        "type": detail.DESCRIPTOR.full_name,
        "value": base64.b64encode(detail.SerializeToString()).decode().rstrip("="),
        "debug": json_value(detail),
    }
