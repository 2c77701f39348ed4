"""The judge of payloads: a schema, compiled once, that coerces payloads by the coercion table.

Compiling yields, for each property, a dict from the Python type of a value to the step that takes such
a value, with its path, mode and policy bound in. Judging looks up and calls; nothing is decided twice.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from registry.coercion_table import PYTHON_TYPES, TABLE, JsonKind, as_is
from registry.errors import PayloadRejected, Violation
from registry.json_values import all_exact, with_numbers
from registry.paths import ROOT, property_path, quoted_property
from registry.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties
from registry.suggestions import Suggestions
from registry.values import JSON, canonical_number, describe, is_exact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.coercion_table import Convert

MAX_VIOLATIONS: Final = 100
"""A payload is given up at this many."""

_SUGGESTIONS = 3


class CoercionKind(StrEnum):
    """How a coerced payload differs from what was sent."""

    CONVERTED = "converted"
    """The value became one of the declared type."""
    ROUNDED = "rounded"
    """A number beyond ±2^53: where it was an integer, its last digits may not be those that were meant."""
    NULL_DROPPED = "null_dropped"
    """null for an optional property counts as absent."""
    UNKNOWN_DROPPED = "unknown_dropped"
    """The property is not declared and the schema says DROP."""


_CONVERTED, _ROUNDED = CoercionKind.CONVERTED, CoercionKind.ROUNDED  # reading a member off its enum is slow


# msgspec structs: they are made for every event, in an eighth of the time that a frozen dataclass takes.
class Coercion(msgspec.Struct, frozen=True, array_like=True):
    """One difference between the payload that was sent and the coerced one.

    `before` and `after` are equal for a number that was ROUNDED on its way here; `after` is None for
    what was dropped.
    """

    path: str
    kind: CoercionKind
    before: JSON
    after: JSON


class CoercedPayload(msgspec.Struct, frozen=True):
    """An accepted payload in its canonical form, keys in the order sent, with every change made to it."""

    properties: dict[str, JSON]
    coercions: tuple[Coercion, ...]


Coercer: TypeAlias = Callable[[dict[str, JSON]], CoercedPayload]
"""Coerces one payload or raises PayloadRejected with every violation, up to MAX_VIOLATIONS.

The payload is made of the types a JSON decoder makes and is never mutated; subtrees that no schema covers and in
which no number changes are shared with the result. NaN, infinities and integers beyond the range of a double are
refused at any depth in what is kept. Coercing what was coerced changes nothing.
"""


def compile_schema(schema: Schema) -> Coercer:
    """Compile a valid schema; the work that every payload would repeat is done here."""
    judge = _object_step(schema.properties, ROOT, schema)

    def coerce(payload: dict[str, JSON]) -> CoercedPayload:
        report = _Report()
        properties = judge(payload, report)
        if report.violations:
            raise PayloadRejected(report.violations)
        return CoercedPayload(properties, tuple(report.coercions))

    return coerce


class _Wanted(NamedTuple):
    """What a property takes: in words, and the name of its type."""

    words: str
    type: str


_FINITE = _Wanted("a finite number", PropertyType.NUMBER)

_CONTAINERS: Final = (JsonKind.OBJECT, JsonKind.ARRAY)


class _Report(msgspec.Struct):
    """What was found in one payload; `trail` leads to the array item that is being looked at."""

    coercions: list[Coercion] = []
    violations: tuple[Violation, ...] = ()
    trail: tuple[str | int, ...] = ()

    def at(self, path: str) -> str:
        """Complete a path that was compiled relative to the item."""
        if not self.trail:
            return path
        return "".join(part if isinstance(part, str) else f"[{part}]" for part in self.trail) + path

    def change(self, path: str, kind: CoercionKind, before: JSON, after: JSON) -> None:
        self.coercions.append(Coercion(self.at(path), kind, before, after))

    def refuse(self, path: str, reason: str, complaint: str, expected: str = "") -> None:
        """Note that the property at the path `complaint`; give up when enough was noted."""
        full = self.at(path)
        message = f"Property {quoted_property(full)} {complaint}"
        self.violations += (Violation(full, reason, message, expected),)
        if len(self.violations) == MAX_VIOLATIONS:
            raise PayloadRejected(self.violations)


_Step: TypeAlias = Callable[[Any, _Report], Any]
"""Takes a value and reports on it; returns what it becomes, or None to leave it out or refuse it."""

_Steps: TypeAlias = dict[type, _Step | None]
"""The step for each Python type of JSON; no step where the value is taken as it is."""

_Unknown: TypeAlias = Callable[[str, JSON, dict[str, JSON], _Report], None]
"""Deals with an undeclared property: its name, its value, and the object under construction."""


def _object_step(
    properties: Iterable[Property], path: str, schema: Schema
) -> Callable[[dict[str, JSON], _Report], dict[str, JSON]]:
    fields = {each.name: _field_steps(each, property_path(path, each.name), schema) for each in properties}
    required = {each.name: property_path(path, each.name) for each in properties if each.required}
    unknown = _UNKNOWN[schema.unknown_properties](path, tuple(fields))

    def judge(given: dict[str, JSON], report: _Report) -> dict[str, JSON]:
        taken: dict[str, JSON] = {}
        if required and not given.keys() >= required.keys():
            for name, place in required.items():
                if name not in given:
                    report.refuse(place, "REQUIRED_PROPERTY_MISSING", "is required")
        for name, value in given.items():
            if (steps := fields.get(name)) is None:
                unknown(name, value, taken, report)
            elif (step := steps[type(value)]) is None:
                taken[name] = value
            elif (after := step(value, report)) is not None:
                taken[name] = after
        return taken

    return judge


def _array_step(item: Property, path: str, schema: Schema) -> _Step:
    steps = _steps(item, "", schema)

    def judge(given: list[JSON], report: _Report) -> list[JSON]:
        trail = report.trail
        taken: list[JSON] = []
        for index, value in enumerate(given):
            report.trail = (*trail, path, index)
            step = steps[type(value)]
            taken.append(value if step is None else step(value, report))
        report.trail = trail
        return taken

    return judge


def _field_steps(each: Property, path: str, schema: Schema) -> _Steps:
    """Make the steps of a property, which unlike an array item may be absent and so may be null."""
    steps = _steps(each, path, schema)
    if schema.coercion is CoercionMode.LENIENT:
        steps[NoneType] = _required_null_step(path) if each.required else _optional_null_step(path)
    return steps


def _open_step(path: str) -> _Step:
    """Return the step of an object or array that no schema covers: its numbers become doubles like all others."""

    def step(given: Any, report: _Report) -> Any:
        if all_exact(given):
            return given
        return _with_doubles(given, path, report)

    return step


def _with_doubles(given: Any, path: str, report: _Report) -> Any:
    def convert(place: str, number: float) -> JSON:
        after = canonical_number(number)
        _report_inexact_number(report, place, _FINITE, number, after)
        return after

    return with_numbers(given, path, convert)


def _steps(each: Property, path: str, schema: Schema) -> _Steps:
    target, mode = TABLE[each.type], schema.coercion
    wanted = _Wanted(target.wanted_under(mode), each.type)
    refuse = _refusing_step(path, wanted)
    steps: _Steps = {kind: refuse for kinds in PYTHON_TYPES.values() for kind in kinds}
    for conversion in target.conversions:
        if convert := conversion.under(mode):
            step = _converting_step(convert, path, wanted)
            if conversion.given in _CONTAINERS:
                step = _open_step(path)
            steps.update(dict.fromkeys(PYTHON_TYPES[conversion.given], step))
    if each.type is PropertyType.OBJECT and each.properties:
        steps[dict] = _object_step(each.properties, path, schema)
    if each.type is PropertyType.ARRAY and each.item_type:
        item = Property(each.name, each.item_type, properties=each.properties)
        steps[list] = _array_step(item, path, schema)
    return steps


def _converting_step(convert: Convert, path: str, wanted: _Wanted) -> _Step | None:
    if convert is as_is:
        return None
    if convert is canonical_number:
        return _number_step(path, wanted)

    def step(given: JSON, report: _Report) -> JSON:
        after = convert(given)
        if after is None:
            _refuse_value(report, path, wanted, given)
        elif after is not given:
            place = report.at(path) if report.trail else path
            report.coercions.append(Coercion(place, _conversion_kind(given, after), given, after))
        return after

    return step


def _number_step(path: str, wanted: _Wanted) -> _Step:
    def step(given: float, report: _Report) -> JSON:
        after = canonical_number(given)
        if not is_exact(given):
            _report_inexact_number(report, path, wanted, given, after)
        return after

    return step


def _report_inexact_number(report: _Report, path: str, wanted: _Wanted, given: float, after: JSON) -> None:
    if after is None:
        _refuse_value(report, path, wanted, given)
    else:
        report.change(path, _ROUNDED, given, after)


def _conversion_kind(given: JSON, after: JSON) -> CoercionKind:
    number = after if type(after) is float else given
    return _ROUNDED if type(number) is float and not is_exact(number) else _CONVERTED


def _refusing_step(path: str, wanted: _Wanted) -> _Step:
    return lambda given, report: _refuse_value(report, path, wanted, given)


def _refuse_value(report: _Report, path: str, wanted: _Wanted, given: JSON) -> None:
    report.refuse(path, "INVALID_PROPERTY_VALUE", f"must be {wanted.words}; got {describe(given)}", wanted.type)


def _optional_null_step(path: str) -> _Step:
    return lambda _, report: report.change(path, CoercionKind.NULL_DROPPED, None, None)


def _required_null_step(path: str) -> _Step:
    return lambda _, report: report.refuse(path, "REQUIRED_PROPERTY_MISSING", "is required; got null")


def _rejecting_unknown(path: str, declared: Sequence[str]) -> _Unknown:
    suggestions = Suggestions(declared)

    def reject(name: str, _value: JSON, _taken: dict[str, JSON], report: _Report) -> None:
        complaint = "is not declared"
        if len(report.violations) < _SUGGESTIONS and (meant := suggestions.closest(name)):
            complaint += f'; did you mean "{meant}"?'
        report.refuse(property_path(path, name), "UNKNOWN_PROPERTY", complaint)

    return reject


def _dropping_unknown(path: str, _declared: Sequence[str]) -> _Unknown:
    def drop(name: str, value: JSON, _taken: dict[str, JSON], report: _Report) -> None:
        report.change(property_path(path, name), CoercionKind.UNKNOWN_DROPPED, value, None)

    return drop


def _keeping_unknown(path: str, _declared: Sequence[str]) -> _Unknown:
    def keep(name: str, value: JSON, taken: dict[str, JSON], report: _Report) -> None:
        after = value
        kind = type(value)
        if kind is int or kind is float:
            number: Any = value
            after = canonical_number(number)
            if not is_exact(number):
                _report_inexact_number(report, property_path(path, name), _FINITE, number, after)
        elif (kind is dict or kind is list) and not all_exact(value):
            after = _with_doubles(value, property_path(path, name), report)
        taken[name] = after

    return keep


_UNKNOWN: Final[Mapping[UnknownProperties, Callable[[str, Sequence[str]], _Unknown]]] = {
    UnknownProperties.REJECT: _rejecting_unknown,
    UnknownProperties.DROP: _dropping_unknown,
    UnknownProperties.KEEP: _keeping_unknown,
}

coerce_undefined: Final[Coercer] = compile_schema(Schema((), UnknownProperties.KEEP, CoercionMode.STRICT))
"""Coerces the payload of an event that no definition covers: it is kept as it is, its numbers in their one form."""
