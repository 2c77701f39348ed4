"""Arsel's errors: status, name and message.

A reason that is not in the table has the status of `server.status`, and the name of that status.
"""

from __future__ import annotations

from typing import Any, Final

from server.bridge.errors import ErrorTable, ReportedError

SEND: Final = "send"
"""The routes on which a missing definition has another message."""

_UNAUTHORIZED = ReportedError(401, "unauthorized", "Invalid or missing API key")
_NO_EVENT = ReportedError(404, "not_found", "Event {event} not found")
_RATE_LIMITED = ReportedError(
    429,
    "rate_limit_exceeded",
    "Too many requests. Please retry after the period indicated in the retry-after header.",
)

ERRORS: Final[ErrorTable] = {
    "API_KEY_MISSING": _UNAUTHORIZED,
    "API_KEY_INVALID": _UNAUTHORIZED,
    "API_KEY_EXPIRED": _UNAUTHORIZED,
    "CONTACT_REQUIRED": ReportedError(400, "bad_request", "Provide either email or contact_id."),
    "CONTACT_NOT_FOUND": ReportedError(404, "not_found", "Contact not found"),
    "CONTACT_ALREADY_EXISTS": ReportedError(409, "conflict", 'A contact with the email "{email}" already exists.'),
    "DEFINITION_NOT_FOUND": _NO_EVENT,
    "DEFINITION_DELETED": _NO_EVENT,
    "send: DEFINITION_NOT_FOUND": ReportedError(
        404, "not_found", 'No event named "{event}" is defined in this organization.'
    ),
    "DEFINITION_ALREADY_EXISTS": ReportedError(409, "conflict", 'An event named "{event}" already exists.'),
    "DEFINITION_IN_USE": ReportedError(
        409,
        "conflict",
        'Event "{event}" is used by {count} active flow(s). Remove the trigger from those flows first.',
    ),
    "PAYLOAD_REJECTED": ReportedError(422, "validation_error", 'Payload does not match the "{event}" schema.'),
    "RATE_LIMITED": _RATE_LIMITED,
    "PROJECT_RATE_EXCEEDED": _RATE_LIMITED,
    "PROJECT_QUOTA_EXCEEDED": _RATE_LIMITED,
    "INTERNAL": ReportedError(500, message="Internal server error"),
}

_NAMES: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation_error",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
    503: "service_unavailable",
}
"""Names of errors by status."""


def write_error(reported: ReportedError, _error: Exception, _group: str) -> dict[str, Any]:
    """Return an error with its status, name and message."""
    name = reported.code or _NAMES.get(reported.status, "error")
    return {"status_code": reported.status, "name": name, "message": reported.message}
