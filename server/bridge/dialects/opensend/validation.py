"""Validation of OpenSend's requests: field by field, with all violations of a body reported at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from registry.errors import Violation
from server.bridge.errors import RuleBroken
from server.bridge.fields import is_uuid
from server.errors import InvalidArgument, UnstorableText
from server.http.errors import InvalidBody
from server.services.emails import normalize_email

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.bridge.messages import Request

_KINDS: Final = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "array"}


class Violations:
    """The violations of a request: of the request as a whole, and of its fields by name."""

    def __init__(self) -> None:
        self.form: list[str] = []
        self.fields: dict[str, list[str]] = {}

    def add(self, field: str, message: str) -> None:
        """Add a violation of a field."""
        self.fields.setdefault(field, []).append(message)

    def check(self) -> None:
        """Raise InvalidBody if there are violations."""
        violations = [Violation("", "INVALID_FIELD", message) for message in self.form]
        for field, messages in self.fields.items():
            violations += [Violation(field, "INVALID_FIELD", message) for message in messages]
        if violations:
            raise InvalidBody(violations)


def rule_broken(code: str, message: str) -> RuleBroken:
    """Return the error for a rule that has a code of its own."""
    return RuleBroken(422, code, message)


class BodyReader(Violations):
    """Reads the fields of a JSON object.

    Readers return None for an absent or invalid field and add its violation; `check` raises if there are any.
    """

    def __init__(self, request: Request) -> None:
        super().__init__()
        values = request.json()
        if not isinstance(values, dict):
            self.form.append(mismatch("object", values))
            self.check()
        self.values: dict[str, Any] = values

    def has(self, *names: str) -> bool:
        """Return whether the body has a field with one of these names."""
        return any(name in self.values for name in names)

    def text(self, *names: str, least: int = 1, most: int = 255, required: bool = False) -> str | None:
        """Return a string; `names` are the field's name and its aliases."""
        name = self._name(names)
        value = self.values.get(name)
        if name not in self.values:
            if required:
                self.add(name, "Invalid input: expected string, received undefined")
        elif not isinstance(value, str):
            self.add(name, mismatch("string", value))
        elif len(value) < least:
            self.add(name, f"Too small: expected string to have >={least} characters")
        elif len(value) > most:
            self.add(name, f"Too big: expected string to have <={most} characters")
        elif "\0" in value:
            self.add(name, UnstorableText(name).message)
        else:
            return value
        return None

    def email(self, *, required: bool = False) -> str | None:
        """Return an address, trimmed and in lower case."""
        text = self.text("email", least=3, most=512, required=required)
        if text is None:
            return None
        try:
            return normalize_email(text)
        except InvalidArgument:
            self.add("email", "Invalid email address")
            return None

    def uuid(self, name: str) -> str | None:
        """Return a UUID, in lower case."""
        value = self.values.get(name)
        if isinstance(value, str) and is_uuid(value):
            return value.lower()
        if name in self.values:
            self.add(name, "Invalid UUID" if isinstance(value, str) else mismatch("string", value))
        return None

    def record(self, name: str) -> dict[str, Any]:
        """Return a JSON object; an absent or invalid one is empty."""
        value = self.values.get(name, {})
        if isinstance(value, dict):
            return value
        self.add(name, mismatch("record", value))
        return {}

    def flag(self, name: str) -> bool | None:
        """Return a boolean."""
        value = self.values.get(name)
        if name in self.values and not isinstance(value, bool):
            self.add(name, mismatch("boolean", value))
            return None
        return value

    def items(self, name: str) -> list[Any] | None:
        """Return an array."""
        value = self.values.get(name)
        if name in self.values and not isinstance(value, list):
            self.add(name, mismatch("array", value))
            return None
        return value

    def _name(self, names: Sequence[str]) -> str:
        return next((name for name in names if name in self.values), names[0])


def mismatch(expected: str, value: Any) -> str:
    """Return the message for a value of another JSON type than the expected one."""
    return f"Invalid input: expected {expected}, received {_KINDS.get(type(value), 'object')}"
