"""Bodies as OpenSend checks them: field by field, all faults of a body at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from server.bridge.messages import Refused
from server.emails import normal_email
from server.errors import InvalidArgument, UnstorableText

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from server.bridge.messages import Request

_UUID = re.compile(
    "[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}|0{8}-0{4}-0{4}-0{4}-0{12}|f{8}-f{4}-f{4}-f{4}-f{12}",
    re.IGNORECASE,
)

_KINDS: Final = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "array"}


class Faults:
    """What is wrong with a request: with it as a whole, and with its fields by name."""

    def __init__(self) -> None:
        self.form: list[str] = []
        self.fields: dict[str, list[str]] = {}

    def add(self, field: str, message: str) -> None:
        """Note a fault of a field."""
        self.fields.setdefault(field, []).append(message)

    def check(self) -> None:
        """Raise Refused if anything is wrong."""
        if self.form or self.fields:
            raise Refused(422, validation_failed(self.form, self.fields))


def validation_failed(form: Sequence[str], fields: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Write the body of a refusal for faults of a request."""
    return {"error": "Validation failed", "details": {"formErrors": list(form), "fieldErrors": dict(fields)}}


def rule_broken(code: str, message: str) -> Refused:
    """Make the refusal of a request that breaks a rule with a code."""
    return Refused(422, {"error": message, "code": code})


class Body(Faults):
    """A JSON object under validation. Readers give None where a field is absent or wrong; `check` refuses."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        values = request.json()
        if not isinstance(values, dict):
            self.form.append(mistaken("object", values))
            self.check()
        self.values: dict[str, Any] = values

    def has(self, *names: str) -> bool:
        """Say whether one of the names of a field is there."""
        return any(name in self.values for name in names)

    def text(self, *names: str, least: int = 1, most: int = 255, required: bool = False) -> str | None:
        """Read a text under the first of its names that is there."""
        name = self._name(names)
        value = self.values.get(name)
        if name not in self.values:
            if required:
                self.add(name, "Invalid input: expected string, received undefined")
        elif not isinstance(value, str):
            self.add(name, mistaken("string", value))
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
        """Read an address, trimmed and in lower case."""
        text = self.text("email", least=3, most=512, required=required)
        if text is None:
            return None
        try:
            return normal_email(text)
        except InvalidArgument:
            self.add("email", "Invalid email address")
            return None

    def uuid(self, name: str) -> str | None:
        """Read a UUID, in lower case."""
        value = self.values.get(name)
        if isinstance(value, str) and is_uuid(value):
            return value.lower()
        if name in self.values:
            self.add(name, "Invalid UUID" if isinstance(value, str) else mistaken("string", value))
        return None

    def record(self, name: str) -> dict[str, Any]:
        """Read a JSON object; an absent one is empty."""
        value = self.values.get(name, {})
        if isinstance(value, dict):
            return value
        self.add(name, mistaken("record", value))
        return {}

    def flag(self, name: str) -> bool | None:
        """Read a boolean."""
        value = self.values.get(name)
        if name in self.values and not isinstance(value, bool):
            self.add(name, mistaken("boolean", value))
            return None
        return value

    def items(self, name: str) -> list[Any] | None:
        """Read an array."""
        value = self.values.get(name)
        if name in self.values and not isinstance(value, list):
            self.add(name, mistaken("array", value))
            return None
        return value

    def _name(self, names: Sequence[str]) -> str:
        return next((name for name in names if name in self.values), names[0])


def is_uuid(text: str) -> bool:
    """Say whether a text looks like a UUID."""
    return _UUID.fullmatch(text) is not None


def mistaken(wanted: str, value: Any) -> str:
    """Say that a value is of another kind than it should be."""
    return f"Invalid input: expected {wanted}, received {_KINDS.get(type(value), 'object')}"
