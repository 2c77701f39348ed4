"""OpenSend's errors: a text, sometimes a code, and details where a body or a payload is at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from registry.errors import PayloadRejected
from registry.names import path_parts
from server.bridge.dialects.opensend.bodies import validation_failed
from server.bridge.dialects.opensend.schemas import word
from server.errors import ScopeMissing
from server.status import reason_of

if TYPE_CHECKING:
    from registry.errors import Violation
    from server.bridge.dialect import Refusal


class ErrorAnswer(Struct):
    """An error; `name`, `message` and `statusCode` in place of `error` where the key may not do what it asks."""

    error: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    details: Any = UNSET
    name: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    statusCode: int | UnsetType = UNSET  # noqa: N815 - its name on the wire


def write_error(refusal: Refusal) -> dict[str, Any]:
    """Write an error."""
    if isinstance(refusal.error, ScopeMissing):
        return {
            "name": refusal.code,
            "code": refusal.code,
            "message": refusal.message,
            "statusCode": refusal.status,
        }
    if refusal.code == "" and refusal.status == 422 and refusal.violations:
        return _faults(refusal.violations)
    code = reason_of(refusal.error).lower() if refusal.code is None else refusal.code
    said: dict[str, Any] = {"error": refusal.message}
    if code:
        said["code"] = code
    if isinstance(refusal.error, PayloadRejected):
        said["details"] = [_payload_fault(each) for each in refusal.violations]
    return said


def _faults(violations: tuple[Violation, ...]) -> dict[str, Any]:
    """Sort what is wrong by the fields of the body."""
    form: list[str] = []
    fields: dict[str, list[str]] = {}
    for each in violations:
        parts = path_parts(each.path)
        (fields.setdefault(str(parts[0]), []) if parts else form).append(each.message)
    return validation_failed(form, fields)


def _payload_fault(violation: Violation) -> dict[str, str]:
    path = ".".join(("payload", *map(str, path_parts(violation.path)[1:])))
    if violation.reason == "REQUIRED_PROPERTY_MISSING":
        message = f"Missing required field {path}"
    elif violation.expected:
        message = f'Expected {path} to be "{word(violation.expected)}"'
    else:
        message = f"Unexpected field {path}"
    return {"path": path, "message": message}
