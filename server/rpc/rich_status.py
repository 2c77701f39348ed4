"""The rich status of a refused call: ErrorInfo always, BadRequest and RetryInfo where they apply."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from registry.errors import SignalboxError
from server.status import MAX_MESSAGE, code_of, cut, message_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

DOMAIN = "signalbox"

MAX_VALUE = 255
MAX_VIOLATION_BYTES = 3_000


def rich_status(error: Exception) -> Status:
    """Return the google.rpc.Status of an error."""
    code: int = code_of(error).value[0]
    return Status(code=code, message=message_of(error), details=[_packed(detail) for detail in error_details(error)])


def error_details(error: Exception) -> Iterator[Message]:
    """Yield the details of an error."""
    metadata = error.metadata if isinstance(error, SignalboxError) else {}
    yield details.ErrorInfo(
        reason=reason_of(error),
        domain=DOMAIN,
        metadata={name: cut(value, MAX_VALUE) for name, value in metadata.items()},
    )
    violations = list(_field_violations(error))
    if violations:
        yield details.BadRequest(field_violations=violations)
    if isinstance(error, SignalboxError) and error.retry_after:
        yield details.RetryInfo(retry_delay=_duration(error.retry_after))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _field_violations(error: Exception) -> Iterator[Any]:
    """Yield the violations that fit into a status."""
    room = MAX_VIOLATION_BYTES
    for one in getattr(error, "violations", ()):
        message = details.BadRequest.FieldViolation(
            field=cut(one.path, MAX_VALUE), description=cut(one.message, MAX_MESSAGE), reason=one.reason
        )
        room -= message.ByteSize()
        if room < 0:
            return
        yield message


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
