"""The one table from an error's reason to what callers see: the gRPC code, and what each dialect answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grpc import StatusCode

from automation.errors import AutomationError
from registry.errors import RegistryError
from server.errors import ServiceError
from server.model import Dialect

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
    "BODY_TOO_SLOW": StatusCode.DEADLINE_EXCEEDED,
    "RATE_LIMITED": StatusCode.RESOURCE_EXHAUSTED,
    "PROJECT_NOT_FOUND": StatusCode.NOT_FOUND,
    "CONTACT_NOT_FOUND": StatusCode.NOT_FOUND,
    "DEFINITION_NOT_FOUND": StatusCode.NOT_FOUND,
    "EVENT_NOT_FOUND": StatusCode.NOT_FOUND,
    "REVISION_NOT_FOUND": StatusCode.NOT_FOUND,
    "AUTOMATION_NOT_FOUND": StatusCode.NOT_FOUND,
    "RUN_NOT_FOUND": StatusCode.NOT_FOUND,
    "SUBSCRIPTION_NOT_FOUND": StatusCode.NOT_FOUND,
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
    "MAX_REVISIONS_REACHED": StatusCode.FAILED_PRECONDITION,
    "CONDITIONS_BROKEN": StatusCode.FAILED_PRECONDITION,
    "AUTOMATION_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "AUTOMATION_NOT_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "RUN_FINISHED": StatusCode.FAILED_PRECONDITION,
    "RUN_MOVED_ON": StatusCode.FAILED_PRECONDITION,
    "RUN_WITHOUT_CONTACT": StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_IN_USE": StatusCode.FAILED_PRECONDITION,
    "CURSOR_EXPIRED": StatusCode.OUT_OF_RANGE,
    "CURSOR_REWOUND": StatusCode.OUT_OF_RANGE,
    "POSITION_BEYOND_HEAD": StatusCode.OUT_OF_RANGE,
    "ROW_UNREADABLE": StatusCode.FAILED_PRECONDITION,
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

HTTP: Final[dict[StatusCode, int]] = {
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
"""The status over HTTP, where a dialect has none of its own for the reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a dialect answers: a status, its own name for the error, and a text in which `{event}` is of the metadata.

    None stands for the name that the dialect makes of the status or reason, an empty text for the error's own.
    """

    status: int
    code: str | None = None
    message: str = ""


EVERYWHERE: Final[dict[str, int]] = {
    "BODY_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "UNSUPPORTED_CHARSET": 415,
    "UNSUPPORTED_ENCODING": 415,
    "RATE_LIMITED": 429,
}
"""The status of reasons whose gRPC code says less than HTTP can."""

_UNAUTHORIZED = Answer(401, "UNAUTHORIZED", "Unauthorized")
_FAILED = Answer(400, "VALIDATION_FAILED", "Validation failed")
_NO_EVENT = Answer(404, "EVENT_NOT_FOUND", "Event not found")

# By reason, and before that by "topic: reason" where an endpoint answers otherwise than the others of its dialect.
_AUTOSEND: Final[dict[str, Answer]] = {
    "API_KEY_MISSING": _UNAUTHORIZED,
    "API_KEY_INVALID": _UNAUTHORIZED,
    "SCOPE_MISSING": Answer(403, "FORBIDDEN"),
    "CONTACT_REQUIRED": Answer(400, "EMAIL_OR_CONTACT_ID_REQUIRED", "Either email or contactId is required"),
    "CONTACT_NOT_FOUND": Answer(404, "CONTACT_NOT_FOUND", "Contact not found"),
    "send: CONTACT_NOT_FOUND": Answer(
        404, "CONTACT_NOT_FOUND_FOR_EVENT", "Contact not found for the provided email or contactId"
    ),
    "CONTACT_ALREADY_EXISTS": Answer(409, "CONTACT_ALREADY_EXISTS", "Contact with this email already exists"),
    "DEFINITION_NOT_FOUND": _NO_EVENT,
    "DEFINITION_DELETED": _NO_EVENT,
    "DEFINITION_ALREADY_EXISTS": Answer(
        409, "EVENT_ALREADY_EXISTS", "Event with this name already exists in the project"
    ),
    "TOO_MANY_DEFINITIONS": Answer(
        400, "MAX_EVENTS_REACHED", "Maximum number of events ({limit}) reached for this project."
    ),
    "DEFINITION_IN_USE": Answer(409, "EVENT_IN_USE"),
    "INVALID_NAME": _FAILED,
    "INVALID_DESCRIPTION": _FAILED,
    "INVALID_SCHEMA": _FAILED,
    "INVALID_ARGUMENT": _FAILED,
    "INVALID_BODY": _FAILED,
    "UNSTORABLE_TEXT": _FAILED,
    "RATE_LIMITED": Answer(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded. Try again in {seconds} seconds."),
    "INTERNAL": Answer(500, "INTERNAL_SERVER_ERROR", "Internal server error"),
}

_NO_KEY = Answer(401, "", "Missing or invalid API key")
_INVALID = Answer(422, "", "Validation failed")

_OPENSEND: Final[dict[str, Answer]] = {
    "API_KEY_MISSING": _NO_KEY,
    "API_KEY_INVALID": _NO_KEY,
    "SCOPE_MISSING": Answer(
        403,
        "insufficient_api_key_permission",
        "This API key does not have permission to access this resource.",
    ),
    "MALFORMED_JSON": Answer(400, "", "Invalid JSON body"),
    "INVALID_BODY": _INVALID,
    "UNSTORABLE_TEXT": _INVALID,
    "INVALID_ARGUMENT": _INVALID,
    "INVALID_NAME": _INVALID,
    "INVALID_SCHEMA": _INVALID,
    "INVALID_AUTOMATION": _INVALID,
    "PAYLOAD_REJECTED": Answer(422, "event_payload_invalid", "Event payload does not match schema"),
    "DEFINITION_NOT_FOUND": Answer(404, "", "Event not found"),
    "DEFINITION_DELETED": Answer(404, "", "Event not found"),
    "DEFINITION_ALREADY_EXISTS": Answer(409, "", "An event with this name already exists"),
    "DEFINITION_IN_USE": Answer(409, "event_in_use"),
    "TOO_MANY_DEFINITIONS": Answer(422, "max_events_reached"),
    "CONTACT_NOT_FOUND": Answer(404, "", "Contact not found"),
    "CONTACT_ALREADY_EXISTS": Answer(409, "", "A contact with this email already exists"),
    "AUTOMATION_NOT_FOUND": Answer(404, "", "Automation not found"),
    "AUTOMATION_ACTIVE": Answer(409, "automation_enabled", "Disable the automation before deleting"),
    "RUN_NOT_FOUND": Answer(404, "", "Run not found"),
    "RUN_FINISHED": Answer(409, "run_not_cancellable", "Run is not cancellable"),
    "RATE_LIMITED": Answer(429, "", "Rate limit exceeded. Try again later."),
    "INTERNAL": Answer(500, "", "Internal server error"),
}

_EMAILSENDX: Final[dict[str, Answer]] = {
    "API_KEY_MISSING": Answer(401, message="Missing API key"),
    "API_KEY_INVALID": Answer(401, message="Invalid or revoked API key"),
    "SCOPE_MISSING": Answer(403, message="This API key lacks the scope {scope}"),
    "CONTACT_NOT_FOUND": Answer(404, message="Contact not found"),
    "AUTOMATION_NOT_FOUND": Answer(404, message="Automation not found"),
    "RATE_LIMITED": Answer(429, message="Rate limit exceeded. Retry after {seconds} seconds."),
    "INTERNAL": Answer(500, message="Internal server error"),
}

_NO_ARSEL_KEY = Answer(401, "unauthorized", "Invalid or missing API key")

_ARSEL: Final[dict[str, Answer]] = {
    "API_KEY_MISSING": _NO_ARSEL_KEY,
    "API_KEY_INVALID": _NO_ARSEL_KEY,
    "CONTACT_REQUIRED": Answer(400, "bad_request", "Provide either email or contact_id."),
    "CONTACT_NOT_FOUND": Answer(404, "not_found", "Contact not found"),
    "CONTACT_ALREADY_EXISTS": Answer(409, "conflict", 'A contact with the email "{email}" already exists.'),
    "DEFINITION_NOT_FOUND": Answer(404, "not_found", "Event {event} not found"),
    "DEFINITION_DELETED": Answer(404, "not_found", "Event {event} not found"),
    "send: DEFINITION_NOT_FOUND": Answer(404, "not_found", 'No event named "{event}" is defined in this organization.'),
    "DEFINITION_ALREADY_EXISTS": Answer(409, "conflict", 'An event named "{event}" already exists.'),
    "DEFINITION_IN_USE": Answer(
        409,
        "conflict",
        'Event "{event}" is used by {count} active flow(s). Remove the trigger from those flows first.',
    ),
    "PAYLOAD_REJECTED": Answer(422, "validation_error", 'Payload does not match the "{event}" schema.'),
    "RATE_LIMITED": Answer(
        429,
        "rate_limit_exceeded",
        "Too many requests. Please retry after the period indicated in the retry-after header.",
    ),
    "INTERNAL": Answer(500, message="Internal server error"),
}

ANSWERS: Final[dict[Dialect, dict[str, Answer]]] = {
    Dialect.AUTOSEND: _AUTOSEND,
    Dialect.OPENSEND: _OPENSEND,
    Dialect.EMAILSENDX: _EMAILSENDX,
    Dialect.ARSEL: _ARSEL,
}

MAX_MESSAGE: Final = 500
"""A status travels in the trailers, of which gRPC clients take 8 KiB, and the message twice, percent-encoded."""

KNOWN_ERRORS = (AutomationError, RegistryError, ServiceError)
"""What callers may be told; any other error is a defect, and its text stays in the log."""


def reason_of(error: Exception) -> str:
    """Give the machine-readable reason of an error; INTERNAL for one that callers are not told of."""
    return error.reason if isinstance(error, KNOWN_ERRORS) else "INTERNAL"


def message_of(error: Exception) -> str:
    """Give the text that a caller may see."""
    return cut(error.message, MAX_MESSAGE) if isinstance(error, KNOWN_ERRORS) else "Internal error"


def code_of(error: Exception) -> StatusCode:
    """Give the gRPC code of an error."""
    return CODES[reason_of(error)]


def answer_of(dialect: Dialect | None, error: Exception, topic: str = "") -> Answer:
    """Give what a dialect answers, at the endpoints of a topic; the text is filled in, the name may be None.

    None stands for a request of which no dialect is told.
    """
    reason = reason_of(error)
    answers = ANSWERS[dialect] if dialect is not None else {}
    answer = answers.get(f"{topic}: {reason}") or answers.get(reason)
    if answer is None:
        return Answer(EVERYWHERE.get(reason) or HTTP[CODES[reason]], None, message_of(error))
    metadata = error.metadata if isinstance(error, KNOWN_ERRORS) else {}
    return Answer(answer.status, answer.code, answer.message.format_map(metadata) or message_of(error))


def cut(text: str, size: int) -> str:
    """Cut a text to so many bytes of UTF-8."""
    encoded = text.encode()
    return text if len(encoded) <= size else encoded[: size - 3].decode(errors="ignore") + "…"
