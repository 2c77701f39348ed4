"""OpenSend's errors: a message, sometimes a code, and details of an invalid body or payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from registry.errors import PayloadRejected
from registry.paths import path_parts
from server.bridge.dialects.opensend.schemas import type_word
from server.bridge.errors import ErrorTable, ReportedError, violations_of
from server.errors import ScopeMissing
from server.status import reason_of

if TYPE_CHECKING:
    from registry.errors import Violation

_UNAUTHORIZED = ReportedError(401, "", "Missing or invalid API key")
_INVALID = ReportedError(422, "", "Validation failed")
_RATE_LIMITED = ReportedError(429, "", "Rate limit exceeded. Try again later.")

ERRORS: Final[ErrorTable] = {
    "API_KEY_MISSING": _UNAUTHORIZED,
    "API_KEY_INVALID": _UNAUTHORIZED,
    "API_KEY_EXPIRED": _UNAUTHORIZED,
    "SCOPE_MISSING": ReportedError(
        403,
        "insufficient_api_key_permission",
        "This API key does not have permission to access this resource.",
    ),
    "MALFORMED_JSON": ReportedError(400, "", "Invalid JSON body"),
    "INVALID_BODY": _INVALID,
    "UNSTORABLE_TEXT": _INVALID,
    "INVALID_ARGUMENT": _INVALID,
    "INVALID_NAME": _INVALID,
    "INVALID_SCHEMA": _INVALID,
    "INVALID_AUTOMATION": _INVALID,
    "PAYLOAD_REJECTED": ReportedError(422, "event_payload_invalid", "Event payload does not match schema"),
    "DEFINITION_NOT_FOUND": ReportedError(404, "", "Event not found"),
    "DEFINITION_DELETED": ReportedError(404, "", "Event not found"),
    "DEFINITION_ALREADY_EXISTS": ReportedError(409, "", "An event with this name already exists"),
    "DEFINITION_IN_USE": ReportedError(409, "event_in_use"),
    "TOO_MANY_DEFINITIONS": ReportedError(422, "max_events_reached"),
    "TOO_MANY_AUTOMATIONS": ReportedError(422, "max_automations_reached"),
    "CONTACT_NOT_FOUND": ReportedError(404, "", "Contact not found"),
    "CONTACT_ALREADY_EXISTS": ReportedError(409, "", "A contact with this email already exists"),
    "AUTOMATION_NOT_FOUND": ReportedError(404, "", "Automation not found"),
    "AUTOMATION_ACTIVE": ReportedError(409, "automation_enabled", "Disable the automation before deleting"),
    "RUN_NOT_FOUND": ReportedError(404, "", "Run not found"),
    "RUN_FINISHED": ReportedError(409, "run_not_cancellable", "Run is not cancellable"),
    "RATE_LIMITED": _RATE_LIMITED,
    "PROJECT_RATE_EXCEEDED": _RATE_LIMITED,
    "PROJECT_QUOTA_EXCEEDED": _RATE_LIMITED,
    "INTERNAL": ReportedError(500, "", "Internal server error"),
}


def write_error(reported: ReportedError, error: Exception, _group: str) -> dict[str, Any]:
    """Return an error; a missing scope has a shape of its own, which OpenSend shares with its email routes."""
    if isinstance(error, ScopeMissing):
        return {
            "name": reported.code,
            "code": reported.code,
            "message": reported.message,
            "statusCode": reported.status,
        }
    violations = violations_of(error)
    if reported.code == "" and reported.status == 422 and violations:
        return {"error": reported.message, "details": _details(violations)}
    code = reason_of(error).lower() if reported.code is None else reported.code
    written: dict[str, Any] = {"error": reported.message}
    if code:
        written["code"] = code
    if isinstance(error, PayloadRejected):
        written["details"] = [_payload_violation(violation) for violation in violations]
    return written


def _details(violations: tuple[Violation, ...]) -> dict[str, Any]:
    """Group the messages of violations by the field of the body; those of the whole body are `formErrors`."""
    form: list[str] = []
    fields: dict[str, list[str]] = {}
    for violation in violations:
        parts = path_parts(violation.path)
        messages = fields.setdefault(str(parts[0]), []) if parts else form
        messages.append(violation.message)
    return {"formErrors": form, "fieldErrors": fields}


def _payload_violation(violation: Violation) -> dict[str, str]:
    path = ".".join(("payload", *map(str, path_parts(violation.path)[1:])))
    if violation.reason == "REQUIRED_PROPERTY_MISSING":
        message = f"Missing required field {path}"
    elif violation.expected:
        message = f'Expected {path} to be "{type_word(violation.expected)}"'
    else:
        message = f"Unexpected field {path}"
    return {"path": path, "message": message}
