"""The gRPC code and HTTP status of each error's reason, and the text of an error that callers see."""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from registry.errors import SignalboxError

CODES: dict[str, StatusCode] = {
    "API_KEY_MISSING": StatusCode.UNAUTHENTICATED,
    "API_KEY_EXPIRED": StatusCode.UNAUTHENTICATED,
    "API_KEY_INVALID": StatusCode.UNAUTHENTICATED,
    "SCOPE_MISSING": StatusCode.PERMISSION_DENIED,
    "ADMIN_REQUIRED": StatusCode.PERMISSION_DENIED,
    "PROJECT_REQUIRED": StatusCode.INVALID_ARGUMENT,
    "MALFORMED_REQUEST": StatusCode.INVALID_ARGUMENT,
    "DEADLINE_EXCEEDED": StatusCode.DEADLINE_EXCEEDED,
    "NOT_OVER_HTTP": StatusCode.UNIMPLEMENTED,
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
    "BATCH_TOO_COSTLY": StatusCode.INVALID_ARGUMENT,
    "CONTACT_REQUIRED": StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_MEDIA_TYPE": StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_CHARSET": StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_ENCODING": StatusCode.INVALID_ARGUMENT,
    "MALFORMED_BODY": StatusCode.INVALID_ARGUMENT,
    "REPEATED_HEADER": StatusCode.INVALID_ARGUMENT,
    "MALFORMED_JSON": StatusCode.INVALID_ARGUMENT,
    "INVALID_BODY": StatusCode.INVALID_ARGUMENT,
    "ROUTE_NOT_FOUND": StatusCode.NOT_FOUND,
    "METHOD_NOT_ALLOWED": StatusCode.UNIMPLEMENTED,
    "BODY_TOO_LARGE": StatusCode.RESOURCE_EXHAUSTED,
    "BODIES_TOO_LARGE": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_READS": StatusCode.RESOURCE_EXHAUSTED,
    "BODY_TOO_SLOW": StatusCode.DEADLINE_EXCEEDED,
    "RATE_LIMITED": StatusCode.RESOURCE_EXHAUSTED,
    "PROJECT_NOT_FOUND": StatusCode.NOT_FOUND,
    "CONTACT_NOT_FOUND": StatusCode.NOT_FOUND,
    "DEFINITION_NOT_FOUND": StatusCode.NOT_FOUND,
    "EVENT_NOT_FOUND": StatusCode.NOT_FOUND,
    "REFUSAL_NOT_FOUND": StatusCode.NOT_FOUND,
    "NOTHING_TO_INFER_FROM": StatusCode.NOT_FOUND,
    "REVISION_NOT_FOUND": StatusCode.NOT_FOUND,
    "AUTOMATION_NOT_FOUND": StatusCode.NOT_FOUND,
    "RUN_NOT_FOUND": StatusCode.NOT_FOUND,
    "SUBSCRIPTION_NOT_FOUND": StatusCode.NOT_FOUND,
    "API_KEY_NOT_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "API_KEY_NOT_FOUND": StatusCode.NOT_FOUND,
    "PROJECT_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "DEFINITION_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "CONTACT_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "SUBSCRIPTION_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "SECRET_IN_USE": StatusCode.ALREADY_EXISTS,
    "IDEMPOTENCY_KEY_REUSED": StatusCode.ALREADY_EXISTS,
    "INCOMPATIBLE_SCHEMA": StatusCode.FAILED_PRECONDITION,
    "DEFINITION_DELETED": StatusCode.FAILED_PRECONDITION,
    "DEFINITION_IN_USE": StatusCode.FAILED_PRECONDITION,
    "DEFINITION_NOT_DELETED": StatusCode.FAILED_PRECONDITION,
    "TOO_MANY_DEFINITIONS": StatusCode.FAILED_PRECONDITION,
    "TOO_MANY_AUTOMATIONS": StatusCode.FAILED_PRECONDITION,
    "MAX_REVISIONS_REACHED": StatusCode.FAILED_PRECONDITION,
    "CONDITIONS_BROKEN": StatusCode.FAILED_PRECONDITION,
    "AUTOMATION_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "AUTOMATION_NOT_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "RUN_FINISHED": StatusCode.FAILED_PRECONDITION,
    "RUN_MOVED_ON": StatusCode.FAILED_PRECONDITION,
    "RUN_WITHOUT_CONTACT": StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_IN_USE": StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_PUSHES": StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_DOES_NOT_PUSH": StatusCode.FAILED_PRECONDITION,
    "CURSOR_EXPIRED": StatusCode.OUT_OF_RANGE,
    "CURSOR_REWOUND": StatusCode.OUT_OF_RANGE,
    "POSITION_BEYOND_HEAD": StatusCode.OUT_OF_RANGE,
    "ROW_UNREADABLE": StatusCode.FAILED_PRECONDITION,
    "ETAG_MISMATCH": StatusCode.ABORTED,
    "CONSUMER_REPLACED": StatusCode.ABORTED,
    "QUEUE_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "PROJECT_RATE_EXCEEDED": StatusCode.RESOURCE_EXHAUSTED,
    "PROJECT_QUOTA_EXCEEDED": StatusCode.RESOURCE_EXHAUSTED,
    "PROJECT_BUSY": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_CALLS": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_LARGE_MESSAGES": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_STREAMS": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_KEY_LOOKUPS": StatusCode.RESOURCE_EXHAUSTED,
    "REQUEST_TOO_SLOW": StatusCode.DEADLINE_EXCEEDED,
    "AUTOMATIONS_CHANGING": StatusCode.UNAVAILABLE,
    "WATCHER_TOO_SLOW": StatusCode.RESOURCE_EXHAUSTED,
    "SERVER_STOPPING": StatusCode.UNAVAILABLE,
    "STORAGE_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "STORAGE_READ_ONLY": StatusCode.UNAVAILABLE,
    "STORAGE_BUSY": StatusCode.UNAVAILABLE,
    "STORAGE_LATE": StatusCode.UNAVAILABLE,
    "STORAGE_FAILED": StatusCode.UNAVAILABLE,
    "STORAGE_REPLACED": StatusCode.UNAVAILABLE,
    "STORAGE_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "INTERNAL": StatusCode.INTERNAL,
}

_HTTP_STATUSES: Final[dict[StatusCode, int]] = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.UNIMPLEMENTED: 405,
    StatusCode.DEADLINE_EXCEEDED: 408,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.FAILED_PRECONDITION: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 503,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.INTERNAL: 500,
}

_PRECISE_STATUSES: Final[dict[str, int]] = {
    "BODY_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "UNSUPPORTED_CHARSET": 415,
    "UNSUPPORTED_ENCODING": 415,
    "RATE_LIMITED": 429,
}
"""HTTP statuses of reasons for which HTTP has a more precise status than their gRPC code."""

MAX_MESSAGE: Final = 500
"""The most bytes of a message. gRPC clients accept 8 KiB of trailers, which have the message twice, percent-encoded."""


def reason_of(error: Exception) -> str:
    """Return the reason of an error; INTERNAL if it is not shown to callers."""
    return error.reason if isinstance(error, SignalboxError) else "INTERNAL"


def message_of(error: Exception) -> str:
    """Return the message shown to callers. An error of another kind is a defect, whose text stays in the log."""
    return cut(error.message, MAX_MESSAGE) if isinstance(error, SignalboxError) else "Internal error"


def code_of(error: Exception) -> StatusCode:
    """Return the gRPC code of an error."""
    return CODES[reason_of(error)]


def http_status_of(error: Exception) -> int:
    """Return the HTTP status of an error, for dialects that do not have their own."""
    reason = reason_of(error)
    return _PRECISE_STATUSES.get(reason) or _HTTP_STATUSES[CODES[reason]]


def cut(text: str, size: int) -> str:
    """Truncate a text to at most `size` bytes of UTF-8."""
    encoded = text.encode()
    return text if len(encoded) <= size else encoded[: size - 3].decode(errors="ignore") + "…"
