"""Personal properties: which values of a payload are about a person, by its schema."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from registry.coercion.validation import SENT, SENT_PERSONAL, Coercion
from registry.definitions.schema import Property, PropertyType, UnknownProperties
from registry.paths import path_parts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from registry.definitions.schema import Schema
    from registry.errors import Violation

MASK: Final = "***"
"""Stands for a value that a caller may not see."""


@dataclass(frozen=True, slots=True)
class PersonalPaths:
    """The personal properties of schemas, to be masked: each by the names that lead to it."""

    names: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def of(cls, *schemas: Schema | None) -> PersonalPaths:
        """Return those of several schemas."""
        return cls(frozenset(path for schema in schemas if schema for path in _personal(schema.properties, ())))

    def touched_by(self, path: Sequence[str]) -> bool:
        """Return whether names lead to a personal property, into one, or to something that contains one."""
        return any(_begins(path, names) or _begins(names, path) for names in self.names)

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


Marks: TypeAlias = "Mapping[tuple[str, ...], bool]"
"""Whether properties are personal, or in a personal one: by the names that lead to each."""


def latest_marks(newest_first: Iterable[Schema]) -> Marks:
    """Return the mark of each property by the latest schema that declares it."""
    marks: dict[tuple[str, ...], bool] = {}
    for schema in newest_first:
        for path, personal in _marks(schema.properties, (), personal=False):
            marks.setdefault(path, personal)
    return marks


def needs_marks(new: Schema, known: Schema | None) -> bool:
    """Return whether what is personal in a new schema depends on earlier ones than the known one."""
    if known is None or _starts_to_keep(new, known):
        return True
    return bool(latest_marks([new]).keys() - latest_marks([known]).keys())


def keep_personal(new: Schema, known: Schema | None, earlier: Marks = MappingProxyType({})) -> Schema:
    """Return a new schema with everything personal in it that a known one declares as personal.

    For callers who replace a schema and cannot say what is personal. A property that loses its nested properties is
    personal if one of these was. A personal property that is no longer declared, where undeclared ones are kept, stays
    declared with any type: its values are recorded as before. A property that the known schema does not declare has
    its earlier mark. If undeclared properties are kept from now on, all that were personal earlier are declared.
    """
    marks = {**earlier, **latest_marks([known] if known else [])}
    if _starts_to_keep(new, known):
        return replace(new, properties=_with_personal(new.properties, _tree(marks), keeps=True))
    declared = new.properties
    if known is not None:
        keeps = new.unknown_properties is UnknownProperties.KEEP
        declared = _with_personal(declared, known.properties, keeps=keeps)
    added = latest_marks([new]).keys() - latest_marks([known] if known else []).keys()
    return replace(new, properties=_with_earlier(declared, (), added, marks))


def count_properties(schema: Schema) -> int:
    """Return the number of properties of a schema, nested ones included."""
    return sum(1 for _ in _marks(schema.properties, (), personal=False))


def is_kept_personal(declared: Property) -> bool:
    """Return whether a property may be declared for its mark alone: it accepts any value, and may be missing."""
    return declared.personal and declared.type is PropertyType.ANY and not declared.required


def _with_personal(new: Sequence[Property], known: Sequence[Property], *, keeps: bool) -> tuple[Property, ...]:
    by_name = {each.name: each for each in known if any(_personal((each,), ()))}
    marked = [_mark(each, by_name[each.name], keeps=keeps) if each.name in by_name else each for each in new]
    left_out = by_name.keys() - {each.name for each in new} if keeps else ()
    return (*marked, *(Property(name, PropertyType.ANY, personal=True) for name in by_name if name in left_out))


def _mark(new: Property, known: Property, *, keeps: bool) -> Property:
    if known.personal or not new.properties:
        return replace(new, personal=True)
    return replace(new, properties=_with_personal(new.properties, known.properties, keeps=keeps))


def _starts_to_keep(new: Schema, known: Schema | None) -> bool:
    keeps = UnknownProperties.KEEP
    return new.unknown_properties is keeps and (known is None or known.unknown_properties is not keeps)


def _marks(
    declared: Iterable[Property], parent: tuple[str, ...], *, personal: bool
) -> Iterator[tuple[tuple[str, ...], bool]]:
    for each in declared:
        path, marked = (*parent, each.name), personal or each.personal
        yield path, marked
        yield from _marks(each.properties, path, personal=marked)


def _tree(marks: Marks, parent: tuple[str, ...] = ()) -> tuple[Property, ...]:
    """Return properties of which those are personal that are so by their marks."""
    inner = {path[: len(parent) + 1] for path, personal in marks.items() if personal and _begins(path, parent)}
    return tuple(
        Property(path[-1], PropertyType.ANY, personal=True)
        if marks.get(path)
        else Property(path[-1], PropertyType.OBJECT, properties=_tree(marks, path))
        for path in sorted(inner - {parent})
    )


def _with_earlier(
    declared: Sequence[Property], parent: tuple[str, ...], added: Collection[tuple[str, ...]], marks: Marks
) -> tuple[Property, ...]:
    """Return properties of which the added ones are as personal as they were, or as what was in them."""
    found: list[Property] = []
    for each in declared:
        path = (*parent, each.name)
        nested = _with_earlier(each.properties, path, added, marks)
        inner = not nested and any(personal and _begins(names, path) for names, personal in marks.items())
        marked = each.personal or (path in added and (marks.get(path, False) or inner))
        found.append(replace(each, properties=nested, personal=marked))
    return tuple(found)


def _personal(declared: Iterable[Property], parent: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for each in declared:
        if each.personal:
            yield (*parent, each.name)
        else:
            yield from _personal(each.properties, (*parent, each.name))


def _begins(path: Sequence[str], names: Sequence[str]) -> bool:
    return len(names) <= len(path) and all(one == other for one, other in zip(names, path, strict=False))


def _masked(value: Any, path: tuple[str, ...], personal: frozenset[tuple[str, ...]]) -> Any:
    """Return a value with what is personal in it masked. Items of an array have the path of the array."""
    if path in personal:
        return MASK
    if not any(_begins(names, path) for names in personal):
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
