"""AutoSend's errors: an envelope with a message, a code, and details of invalid fields."""

from __future__ import annotations

from typing import Any, Final

from registry.errors import PayloadRejected
from registry.paths import quoted_property
from server.bridge.errors import ErrorTable, ReportedError, violations_of
from server.status import reason_of

SEND, CONTACT = "send", "contact"
"""Groups of routes on which an error has another code, or one more field."""

VALIDATION_FAILED: Final = "VALIDATION_FAILED"

_UNAUTHORIZED = ReportedError(401, "UNAUTHORIZED", "Unauthorized")
_INVALID = ReportedError(400, VALIDATION_FAILED, "Validation failed")
_NO_EVENT = ReportedError(404, "EVENT_NOT_FOUND", "Event not found")
_RATE_LIMITED = ReportedError(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded. Try again in {seconds} seconds.")

ERRORS: Final[ErrorTable] = {
    "API_KEY_MISSING": _UNAUTHORIZED,
    "API_KEY_INVALID": _UNAUTHORIZED,
    "API_KEY_EXPIRED": _UNAUTHORIZED,
    "SCOPE_MISSING": ReportedError(403, "FORBIDDEN"),
    "CONTACT_REQUIRED": ReportedError(400, "EMAIL_OR_CONTACT_ID_REQUIRED", "Either email or contactId is required"),
    "CONTACT_NOT_FOUND": ReportedError(404, "CONTACT_NOT_FOUND", "Contact not found"),
    "send: CONTACT_NOT_FOUND": ReportedError(
        404, "CONTACT_NOT_FOUND_FOR_EVENT", "Contact not found for the provided email or contactId"
    ),
    "CONTACT_ALREADY_EXISTS": ReportedError(409, "CONTACT_ALREADY_EXISTS", "Contact with this email already exists"),
    "DEFINITION_NOT_FOUND": _NO_EVENT,
    "DEFINITION_DELETED": _NO_EVENT,
    "DEFINITION_ALREADY_EXISTS": ReportedError(
        409, "EVENT_ALREADY_EXISTS", "Event with this name already exists in the project"
    ),
    "TOO_MANY_DEFINITIONS": ReportedError(
        400, "MAX_EVENTS_REACHED", "Maximum number of events ({limit}) reached for this project."
    ),
    "DEFINITION_IN_USE": ReportedError(409, "EVENT_IN_USE"),
    "INVALID_NAME": _INVALID,
    "INVALID_DESCRIPTION": _INVALID,
    "INVALID_SCHEMA": _INVALID,
    "INVALID_ARGUMENT": _INVALID,
    "INVALID_BODY": _INVALID,
    "UNSTORABLE_TEXT": _INVALID,
    "RATE_LIMITED": _RATE_LIMITED,
    "PROJECT_RATE_EXCEEDED": _RATE_LIMITED,
    "PROJECT_QUOTA_EXCEEDED": _RATE_LIMITED,
    "INTERNAL": ReportedError(500, "INTERNAL_SERVER_ERROR", "Internal server error"),
}

_EXPECTED: Final = {
    "string": "a string",
    "number": "a number",
    "date": "a date",
    "boolean": "a boolean",
    "object": "an object",
    "array": "an array",
    "any": "a value",
}


def write_error(reported: ReportedError, error: Exception, group: str) -> dict[str, Any]:
    """Return an error in its envelope."""
    code, message = reported.code or reason_of(error), reported.message
    if isinstance(error, PayloadRejected):
        code, message = _payload_error(error)
    written: dict[str, Any] = {"message": message, "code": code}
    if code == VALIDATION_FAILED:
        written["details"] = [
            {"field": _field(violation.path), "message": violation.message} for violation in violations_of(error)
        ]
    if group == CONTACT:
        written["status"] = reported.status
    return {"success": False, "error": written}


def _payload_error(error: PayloadRejected) -> tuple[str, str]:
    """Return AutoSend's code and message for the first violation of a payload."""
    first = error.violations[0]
    name = quoted_property(first.path)
    if first.reason == "UNKNOWN_PROPERTY":
        return "UNKNOWN_PROPERTY", f'Property {name} is not declared on event "{error.metadata["event"]}"'
    expected = f"must be {_EXPECTED[first.expected]}" if first.expected else "is required"
    return "INVALID_PROPERTY_VALUE", f"Property {name} {expected}"


def _field(path: str) -> str:
    """Return the body's field for the path of a schema's property."""
    return (
        path.removeprefix("schema.").replace("].name", "].propertyName").replace("suggested_values", "suggestedValues")
    )
