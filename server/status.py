"""The one table from an error's reason to the gRPC code that callers see, and the rich status made from it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from automation.errors import AutomationError
from registry.errors import RegistryError
from server.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

DOMAIN = "signalbox"

CODES: dict[str, StatusCode] = {
    "API_KEY_MISSING": StatusCode.UNAUTHENTICATED,
    "API_KEY_INVALID": StatusCode.UNAUTHENTICATED,
    "SCOPE_MISSING": StatusCode.PERMISSION_DENIED,
    "ADMIN_REQUIRED": StatusCode.PERMISSION_DENIED,
    "PROJECT_REQUIRED": StatusCode.INVALID_ARGUMENT,
    "MALFORMED_REQUEST": StatusCode.INVALID_ARGUMENT,
    "UNSTORABLE_TEXT": StatusCode.INVALID_ARGUMENT,
    "INVALID_ARGUMENT": StatusCode.INVALID_ARGUMENT,
    "INVALID_PAGE_TOKEN": StatusCode.INVALID_ARGUMENT,
    "CURSOR_INVALID": StatusCode.INVALID_ARGUMENT,
    "INVALID_NAME": StatusCode.INVALID_ARGUMENT,
    "INVALID_DESCRIPTION": StatusCode.INVALID_ARGUMENT,
    "INVALID_SCHEMA": StatusCode.INVALID_ARGUMENT,
    "INVALID_AUTOMATION": StatusCode.INVALID_ARGUMENT,
    "INVALID_SUBSCRIPTION": StatusCode.INVALID_ARGUMENT,
    "INVALID_CONSUMER": StatusCode.INVALID_ARGUMENT,
    "CONDITION_INVALID": StatusCode.INVALID_ARGUMENT,
    "PAYLOAD_REJECTED": StatusCode.INVALID_ARGUMENT,
    "BATCH_REJECTED": StatusCode.INVALID_ARGUMENT,
    "CONTACT_REQUIRED": StatusCode.INVALID_ARGUMENT,
    "PROJECT_NOT_FOUND": StatusCode.NOT_FOUND,
    "CONTACT_NOT_FOUND": StatusCode.NOT_FOUND,
    "EVENT_NOT_FOUND": StatusCode.NOT_FOUND,
    "EVENT_NOT_RECORDED": StatusCode.NOT_FOUND,
    "REVISION_NOT_FOUND": StatusCode.NOT_FOUND,
    "AUTOMATION_NOT_FOUND": StatusCode.NOT_FOUND,
    "RUN_NOT_FOUND": StatusCode.NOT_FOUND,
    "SUBSCRIPTION_NOT_FOUND": StatusCode.NOT_FOUND,
    "API_KEY_NOT_FOUND": StatusCode.NOT_FOUND,
    "PROJECT_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "EVENT_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "SUBSCRIPTION_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "SECRET_IN_USE": StatusCode.ALREADY_EXISTS,
    "IDEMPOTENCY_KEY_REUSED": StatusCode.ALREADY_EXISTS,
    "INCOMPATIBLE_SCHEMA": StatusCode.FAILED_PRECONDITION,
    "EVENT_DELETED": StatusCode.FAILED_PRECONDITION,
    "EVENT_NOT_DELETED": StatusCode.FAILED_PRECONDITION,
    "MAX_EVENTS_REACHED": StatusCode.FAILED_PRECONDITION,
    "MAX_REVISIONS_REACHED": StatusCode.FAILED_PRECONDITION,
    "CONDITIONS_BROKEN": StatusCode.FAILED_PRECONDITION,
    "AUTOMATION_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "AUTOMATION_NOT_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "RUN_FINISHED": StatusCode.FAILED_PRECONDITION,
    "RUN_MOVED_ON": StatusCode.FAILED_PRECONDITION,
    "RUN_WITHOUT_CONTACT": StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_IN_USE": StatusCode.FAILED_PRECONDITION,
    "CURSOR_EXPIRED": StatusCode.OUT_OF_RANGE,
    "POSITION_BEYOND_HEAD": StatusCode.OUT_OF_RANGE,
    "ETAG_MISMATCH": StatusCode.ABORTED,
    "CONSUMER_REPLACED": StatusCode.ABORTED,
    "QUEUE_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "WATCHER_TOO_SLOW": StatusCode.RESOURCE_EXHAUSTED,
    "SERVER_STOPPING": StatusCode.UNAVAILABLE,
    "METHOD_NOT_IMPLEMENTED": StatusCode.UNIMPLEMENTED,
    "STORAGE_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "STORAGE_READ_ONLY": StatusCode.UNAVAILABLE,
    "STORAGE_BUSY": StatusCode.UNAVAILABLE,
    "STORAGE_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "INTERNAL": StatusCode.INTERNAL,
}

# A status travels in the trailers, of which gRPC clients take 8 KiB, and the message twice, percent-encoded.
MAX_MESSAGE = 500
MAX_VALUE = 255
MAX_VIOLATION_BYTES = 3_000

KNOWN_ERRORS = (AutomationError, RegistryError, ServiceError)
"""What callers may be told; any other error is a defect, and its text stays in the log."""


def reason_of(error: Exception) -> str:
    """Give the machine-readable reason of an error; INTERNAL for one that callers are not told of."""
    return error.reason if isinstance(error, KNOWN_ERRORS) else "INTERNAL"


def message_of(error: Exception) -> str:
    """Give the text that a caller may see."""
    return _cut(error.message, MAX_MESSAGE) if isinstance(error, KNOWN_ERRORS) else "Internal error"


def code_of(error: Exception) -> StatusCode:
    """Give the gRPC code of an error."""
    return CODES[reason_of(error)]


def rich_status(error: Exception) -> Status:
    """Make the google.rpc.Status of an error: ErrorInfo always, BadRequest and RetryInfo where they apply."""
    code: int = code_of(error).value[0]
    return Status(code=code, message=message_of(error), details=[_packed(detail) for detail in _details(error)])


def _details(error: Exception) -> Iterator[Message]:
    metadata = error.metadata if isinstance(error, KNOWN_ERRORS) else {}
    yield details.ErrorInfo(
        reason=reason_of(error),
        domain=DOMAIN,
        metadata={name: _cut(value, MAX_VALUE) for name, value in metadata.items()},
    )
    violations = list(_field_violations(error))
    if violations:
        yield details.BadRequest(field_violations=violations)
    if isinstance(error, ServiceError) and error.retry_after:
        yield details.RetryInfo(retry_delay=_duration(error.retry_after))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _field_violations(error: Exception) -> Iterator[Any]:
    """Write the violations, as many as fit beside the rest of a status."""
    room = MAX_VIOLATION_BYTES
    for one in getattr(error, "violations", ()):
        message = details.BadRequest.FieldViolation(
            field=_cut(one.path, MAX_VALUE), description=_cut(one.message, MAX_MESSAGE), reason=one.reason
        )
        room -= message.ByteSize()
        if room < 0:
            return
        yield message


def _cut(text: str, size: int) -> str:
    """Cut a text to so many bytes of UTF-8."""
    encoded = text.encode()
    return text if len(encoded) <= size else encoded[: size - 3].decode(errors="ignore") + "…"


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
