"""Which properties schemas declare as personal, and how a new schema keeps what earlier ones declared."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from registry.definitions.schema import Property, PropertyType, UnknownProperties

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from registry.definitions.schema import Schema

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
    """Return whether schemas earlier than the known one decide which properties of a new schema are personal."""
    if known is None or _starts_to_keep(new, known):
        return True
    return bool(latest_marks([new]).keys() - latest_marks([known]).keys())


def keep_personal(new: Schema, known: Schema | None, earlier: Marks = MappingProxyType({})) -> Schema:
    """Return a new schema in which every property that a known schema declares as personal is personal.

    For callers who replace a schema and do not say what is personal. A property that loses its nested properties is
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
    by_name = {each.name: each for each in known if any(personal_paths((each,), ()))}
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
    properties: Iterable[Property], parent: tuple[str, ...], *, personal: bool
) -> Iterator[tuple[tuple[str, ...], bool]]:
    for declared in properties:
        path, marked = (*parent, declared.name), personal or declared.personal
        yield path, marked
        yield from _marks(declared.properties, path, personal=marked)


def _tree(marks: Marks, parent: tuple[str, ...] = ()) -> tuple[Property, ...]:
    """Return the properties that are marked as personal, within those that contain them."""
    inner = {path[: len(parent) + 1] for path, personal in marks.items() if personal and begins_with(path, parent)}
    return tuple(
        Property(path[-1], PropertyType.ANY, personal=True)
        if marks.get(path)
        else Property(path[-1], PropertyType.OBJECT, properties=_tree(marks, path))
        for path in sorted(inner - {parent})
    )


def _with_earlier(
    properties: Sequence[Property], parent: tuple[str, ...], added: Collection[tuple[str, ...]], marks: Marks
) -> tuple[Property, ...]:
    """Return properties; an added one gets its earlier mark, and is personal if a property in it was."""
    found: list[Property] = []
    for declared in properties:
        path = (*parent, declared.name)
        nested = _with_earlier(declared.properties, path, added, marks)
        inner = not nested and any(personal and begins_with(names, path) for names, personal in marks.items())
        marked = declared.personal or (path in added and (marks.get(path, False) or inner))
        found.append(replace(declared, properties=nested, personal=marked))
    return tuple(found)


def personal_paths(properties: Iterable[Property], parent: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the names that lead to each personal property; one in a personal property is not yielded by itself."""
    for declared in properties:
        if declared.personal:
            yield (*parent, declared.name)
        else:
            yield from personal_paths(declared.properties, (*parent, declared.name))


def begins_with(path: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a path begins with some names."""
    return len(names) <= len(path) and all(one == other for one, other in zip(names, path, strict=False))
