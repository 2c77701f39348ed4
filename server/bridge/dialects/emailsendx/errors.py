"""EmailSendX's errors: a message, without a code."""

from __future__ import annotations

from typing import Any, Final

from server.bridge.errors import ErrorTable, ReportedError

_RATE_LIMITED = ReportedError(429, message="Rate limit exceeded. Retry after {seconds} seconds.")

ERRORS: Final[ErrorTable] = {
    "API_KEY_MISSING": ReportedError(401, message="Missing API key"),
    "API_KEY_INVALID": ReportedError(401, message="Invalid or revoked API key"),
    "API_KEY_EXPIRED": ReportedError(401, message="Expired API key"),
    "SCOPE_MISSING": ReportedError(403, message="This API key lacks the scope {scope}"),
    "CONTACT_NOT_FOUND": ReportedError(404, message="Contact not found"),
    "AUTOMATION_NOT_FOUND": ReportedError(404, message="Automation not found"),
    "RATE_LIMITED": _RATE_LIMITED,
    "PROJECT_RATE_EXCEEDED": _RATE_LIMITED,
    "PROJECT_QUOTA_EXCEEDED": _RATE_LIMITED,
    "INTERNAL": ReportedError(500, message="Internal server error"),
}


def write_error(reported: ReportedError, _error: Exception, _group: str) -> dict[str, Any]:
    """Return an error with its message."""
    return {"error": reported.message}
