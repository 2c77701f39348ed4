"""Resend's errors: status, message, and a name from its documented list."""

from __future__ import annotations

from typing import Any, Final

from server.bridge.errors import ErrorTable, ReportedError, violations_of

_INVALID = ReportedError(422, "validation_error")
_NO_EVENT = ReportedError(404, "not_found", "Event not found")
_RATE_LIMITED = ReportedError(
    429, "rate_limit_exceeded", "Too many requests. Retry after the seconds in the retry-after header."
)

ERRORS: Final[ErrorTable] = {
    "API_KEY_MISSING": ReportedError(401, "missing_api_key", "Missing API key in the authorization header"),
    "API_KEY_INVALID": ReportedError(403, "invalid_api_key", "API key is invalid"),
    "API_KEY_EXPIRED": ReportedError(403, "invalid_api_key", "API key has expired"),
    "SCOPE_MISSING": ReportedError(401, "restricted_api_key", "This API key lacks the scope {scope}"),
    "INVALID_BODY": _INVALID,
    "INVALID_ARGUMENT": _INVALID,
    "INVALID_NAME": _INVALID,
    "INVALID_SCHEMA": _INVALID,
    "UNSTORABLE_TEXT": _INVALID,
    "PAYLOAD_REJECTED": _INVALID,
    "TOO_MANY_DEFINITIONS": _INVALID,
    "DEFINITION_NOT_FOUND": _NO_EVENT,
    "DEFINITION_DELETED": _NO_EVENT,
    "DEFINITION_ALREADY_EXISTS": ReportedError(409, "validation_error", 'An event named "{event}" already exists'),
    "CONTACT_NOT_FOUND": ReportedError(404, "not_found", "Contact not found"),
    "CONTACT_ALREADY_EXISTS": ReportedError(
        409, "validation_error", 'A contact with the email "{email}" already exists'
    ),
    "IDEMPOTENCY_KEY_REUSED": ReportedError(409, "invalid_idempotent_request"),
    "RATE_LIMITED": _RATE_LIMITED,
    "PROJECT_RATE_EXCEEDED": _RATE_LIMITED,
    "PROJECT_QUOTA_EXCEEDED": _RATE_LIMITED,
    "INTERNAL": ReportedError(500, "application_error", "Internal server error"),
}

_NAMES: Final = {404: "not_found", 405: "method_not_allowed", 408: "application_error", 503: "application_error"}
"""Names of other errors by status; Resend's list has none but `validation_error` for the rest."""


def write_error(reported: ReportedError, error: Exception, _group: str) -> dict[str, Any]:
    """Return an error with its status, message and name."""
    name = reported.code or _NAMES.get(reported.status, "validation_error")
    message = reported.message
    first = next(iter(violations_of(error)), None)
    if first is not None and first.reason == "REQUIRED_FIELD_MISSING":
        name, message = "missing_required_field", f"Missing `{first.path}` field."
    return {"statusCode": reported.status, "message": message, "name": name}
