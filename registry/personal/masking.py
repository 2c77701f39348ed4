"""Payloads, coercions and violations without the personal values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.coercion.report import SENT, SENT_PERSONAL, Coercion
from registry.paths import path_parts
from registry.personal.marks import begins_with, personal_paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.definitions.schema import Property, Schema
    from registry.errors import Violation

MASK: Final = "***"
"""Stands for a value that a caller may not see."""


@dataclass(frozen=True, slots=True)
class PersonalPaths:
    """The personal properties of schemas, to be masked: each by the names that lead to it."""

    names: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def of(cls, *schemas: Schema | None) -> PersonalPaths:
        """Return the personal properties of several schemas."""
        return cls(frozenset(path for schema in schemas if schema for path in personal_paths(schema.properties, ())))

    def touched_by(self, path: Sequence[str]) -> bool:
        """Return whether names lead to a personal property, into one, or to something that contains one."""
        return any(begins_with(path, names) or begins_with(names, path) for names in self.names)

    def mask(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """Return properties with all personal values masked."""
        masked: dict[str, Any] = _masked(properties, (), self.names)
        return masked

    def mask_coercions(self, coercions: Sequence[Coercion]) -> tuple[Coercion, ...]:
        """Return coercions with all personal values masked."""
        return tuple(self._mask_coercion(each) for each in coercions)

    def mask_violations(self, violations: Sequence[Violation]) -> tuple[Violation, ...]:
        """Return violations without personal values, also those by a schema that does not declare them as personal."""
        return tuple(self._mask_violation(each) for each in violations)

    def _mask_violation(self, violation: Violation) -> Violation:
        message = violation.message
        if SENT not in message or not self._touched_at(violation.path):
            return violation
        return replace(violation, message=violation.masked or message.partition(SENT)[0] + SENT_PERSONAL)

    def _touched_at(self, path: str) -> bool:
        _, *parts = path_parts(path)
        return self.touched_by([part for part in parts if isinstance(part, str)])

    def _mask_coercion(self, coercion: Coercion) -> Coercion:
        if not self._touched_at(coercion.path):
            return coercion
        return Coercion(coercion.path, coercion.kind, MASK, None if coercion.after is None else MASK)


def _masked(value: Any, path: tuple[str, ...], personal: frozenset[tuple[str, ...]]) -> Any:
    """Return a value with its personal parts masked. Items of an array have the path of the array."""
    if path in personal:
        return MASK
    if not any(begins_with(names, path) for names in personal):
        return value
    if isinstance(value, dict):
        return {name: _masked(inner, (*path, name), personal) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(item, path, personal) for item in value]
    return value


def keep_not_personal(properties: Mapping[str, Any], declared: Iterable[Property], address: str = "") -> dict[str, Any]:
    """Return the properties that are declared as not personal, at every level that declares properties.

    Values that contain the address in any letter case are left out as well, wherever it is in them.
    """
    kept: dict[str, Any] = {}
    for each in declared:
        if each.personal or each.name not in properties:
            continue
        value = _keep_nested(properties[each.name], each, address) if each.properties else properties[each.name]
        if not address or not _contains(value, address):
            kept[each.name] = value
    return kept


def _keep_nested(value: Any, declared: Property, address: str) -> Any:
    if isinstance(value, dict):
        return keep_not_personal(value, declared.properties, address)
    if isinstance(value, list):
        return [_keep_nested(item, declared, address) for item in value]
    return value


def _contains(value: Any, address: str) -> bool:
    """Return whether the JSON of a value contains a text, in any letter case."""
    escaped = msgspec.json.encode(address).decode()[1:-1]
    return escaped.lower() in msgspec.json.encode(value).decode().lower()
