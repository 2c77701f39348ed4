"""Validation and coercion of payloads: a schema is compiled once, by the coercion table, into a function.

Compiling makes, for each property, a dict from the Python type of a value to the step that coerces it. The path, the
mode and the policy of the property are bound into the step, so validating a payload is a lookup and a call per value:

    property declared as   type of the value   step
    string, LENIENT        str                 None: the value is kept
                           int, float, bool    convert, and report a coercion
                           dict, list          report a violation
                           NoneType            leave it out, or report the missing property if it is required
    object with properties dict                the same, one level deeper

Most values of most payloads are kept, which is why "no step" is None and not a function: it costs no call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from registry.coercion.report import MAX_VIOLATIONS, SENT, SENT_PERSONAL, CoercedPayload, CoercionKind, Report
from registry.coercion.table import PYTHON_TYPES, TABLE, JsonKind, as_is
from registry.definitions.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties
from registry.errors import PayloadRejected
from registry.paths import ROOT, property_path
from registry.suggestions import Suggestions
from registry.values.json_values import all_exact, with_numbers
from registry.values.plain_json import JSON, canonical_number, describe, is_exact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.coercion.table import Convert

_SUGGESTIONS = 3
"""The number of violations that come with a suggestion."""


_CONVERTED, _ROUNDED = CoercionKind.CONVERTED, CoercionKind.ROUNDED  # reading a member off its enum is slow


class Coercer(Protocol):
    """Validates and coerces one payload, by a compiled schema."""

    def __call__(self, payload: dict[str, JSON], violations: int = MAX_VIOLATIONS, /) -> CoercedPayload:
        """Return the coerced payload. Raise PayloadRejected with every violation, up to this many.

        - The payload, made of the types that a JSON decoder makes, is never mutated. The result shares subtrees with it
          where no schema applies and no number changes.
        - NaN, infinities and integers beyond the range of a double are rejected at any depth of the kept values.
        - A coerced payload is coerced to itself.
        """
        ...


def compile_schema(schema: Schema) -> Coercer:
    """Compile a valid schema; the work that every payload would repeat is done here."""
    validate = _object_step(schema.properties, ROOT, schema)

    def coerce(payload: dict[str, JSON], violations: int = MAX_VIOLATIONS, /) -> CoercedPayload:
        report = Report(violations)
        properties = validate(payload, report)
        if report.violations:
            raise PayloadRejected(tuple(report.violations))
        return CoercedPayload(properties, tuple(report.coercions), report.omitted)

    return coerce


class _Expected(NamedTuple):
    """The values that a property accepts: in words, to follow "must be", and the name of its type."""

    words: str
    type: str
    personal: bool = False


_FINITE = _Expected("a finite number", PropertyType.NUMBER)

_CONTAINERS: Final = (JsonKind.OBJECT, JsonKind.ARRAY)


_Step: TypeAlias = Callable[[Any, Report], Any]
"""Coerces a value and reports on it. Returns None if the value is left out or rejected: no property becomes null."""

_Steps: TypeAlias = dict[type, _Step | None]
"""The step for each Python type of JSON; None where the value is kept as it is."""

_Unknown: TypeAlias = Callable[[str, JSON, dict[str, JSON], Report], None]
"""Handles an undeclared property: gets its name, its value and the object under construction."""


def _object_step(
    properties: Iterable[Property], path: str, schema: Schema
) -> Callable[[dict[str, JSON], Report], dict[str, JSON]]:
    fields = {
        declared.name: _field_steps(declared, property_path(path, declared.name), schema) for declared in properties
    }
    required = {declared.name: property_path(path, declared.name) for declared in properties if declared.required}
    unknown = _UNKNOWN[schema.unknown_properties](path, tuple(fields))

    def validate(sent: dict[str, JSON], report: Report) -> dict[str, JSON]:
        kept: dict[str, JSON] = {}
        if required and not sent.keys() >= required.keys():
            for name, full_path in required.items():
                if name not in sent:
                    report.reject(full_path, "REQUIRED_PROPERTY_MISSING", "is required")
        for name, value in sent.items():
            if (steps := fields.get(name)) is None:
                unknown(name, value, kept, report)
            elif (step := steps[type(value)]) is None:
                kept[name] = value
            elif (after := step(value, report)) is not None:
                kept[name] = after
        return kept

    return validate


def _array_step(item: Property, path: str, schema: Schema) -> _Step:
    steps = _steps(item, "", schema)

    def validate(sent: list[JSON], report: Report) -> list[JSON]:
        trail = report.trail
        kept: list[JSON] = []
        for index, value in enumerate(sent):
            report.trail = (*trail, path, index)
            step = steps[type(value)]
            kept.append(value if step is None else step(value, report))
        report.trail = trail
        return kept

    return validate


def _field_steps(declared: Property, path: str, schema: Schema) -> _Steps:
    """Return the steps of a property, which unlike an array item may be absent and so may be null."""
    steps = _steps(declared, path, schema)
    if schema.coercion is CoercionMode.LENIENT:
        steps[NoneType] = _required_null_step(path) if declared.required else _optional_null_step(path)
    return steps


def _open_step(path: str) -> _Step:
    """Return the step of an object or array without a schema of its own: only its numbers are made doubles."""

    def step(sent: Any, report: Report) -> Any:
        if all_exact(sent):
            return sent
        return _with_doubles(sent, path, report)

    return step


def _with_doubles(sent: Any, path: str, report: Report) -> Any:
    def convert(number_path: Callable[[], str], number: float) -> JSON:
        after = canonical_number(number)
        _report_inexact_number(report, number_path, _FINITE, number, after)
        return after

    return with_numbers(sent, path, convert)


def _steps(declared: Property, path: str, schema: Schema) -> _Steps:
    target, mode = TABLE[declared.type], schema.coercion
    expected = _Expected(target.wanted_under(mode), declared.type, declared.personal)
    nested = declared.properties
    if declared.personal:
        nested = tuple(replace(inner, personal=True) for inner in nested)
    reject = _rejecting_step(path, expected)
    steps: _Steps = {kind: reject for kinds in PYTHON_TYPES.values() for kind in kinds}
    for conversion in target.conversions:
        if convert := conversion.under(mode):
            step = _converting_step(convert, path, expected)
            if conversion.given in _CONTAINERS:
                step = _open_step(path)
            steps.update(dict.fromkeys(PYTHON_TYPES[conversion.given], step))
    if declared.type is PropertyType.OBJECT and declared.properties:
        steps[dict] = _object_step(nested, path, schema)
    if declared.type is PropertyType.ARRAY and declared.item_type:
        item = Property(declared.name, declared.item_type, properties=nested, personal=declared.personal)
        steps[list] = _array_step(item, path, schema)
    return steps


def _converting_step(convert: Convert, path: str, expected: _Expected) -> _Step | None:
    if convert is as_is:
        return None
    if convert is canonical_number:
        return _number_step(path, expected)

    def step(sent: JSON, report: Report) -> JSON:
        after = convert(sent)
        if after is None:
            _reject_value(report, path, expected, sent)
        elif after is not sent:
            number = after if type(after) is float else sent
            kind = _ROUNDED if type(number) is float and not is_exact(number) else _CONVERTED
            report.coerced(path, kind, sent, after)
        return after

    return step


def _number_step(path: str, expected: _Expected) -> _Step:
    """Return the step of a number. Writing 5.0 as 5 changes no value, so only a number beyond ±2^53 is reported."""

    def step(sent: float, report: Report) -> JSON:
        after = canonical_number(sent)
        if not is_exact(sent):
            _report_inexact_number(report, path, expected, sent, after)
        return after

    return step


def _report_inexact_number(
    report: Report, path: str | Callable[[], str], expected: _Expected, sent: float, after: JSON
) -> None:
    if after is None:
        _reject_value(report, path, expected, sent)
    else:
        report.coerced(path, _ROUNDED, sent, after)


def _rejecting_step(path: str, expected: _Expected) -> _Step:
    return lambda sent, report: _reject_value(report, path, expected, sent)


def _reject_value(report: Report, path: str | Callable[[], str], expected: _Expected, sent: JSON) -> None:
    wanted = f"must be {expected.words}"
    masked = f"{wanted}{SENT_PERSONAL}" if expected.personal else ""
    report.reject(path, "INVALID_PROPERTY_VALUE", f"{wanted}{SENT}{describe(sent)}", expected.type, masked)


def _optional_null_step(path: str) -> _Step:
    return lambda _, report: report.coerced(path, CoercionKind.NULL_DROPPED, None, None)


def _required_null_step(path: str) -> _Step:
    return lambda _, report: report.reject(path, "REQUIRED_PROPERTY_MISSING", "is required; got null")


def _rejecting_unknown(path: str, declared: Sequence[str]) -> _Unknown:
    suggestions = Suggestions(declared)

    def reject(name: str, _value: JSON, _kept: dict[str, JSON], report: Report) -> None:
        problem = "is not declared"
        if len(report.violations) < _SUGGESTIONS and (meant := suggestions.closest(name)):
            problem += f'; did you mean "{meant}"?'
        report.reject(property_path(path, name), "UNKNOWN_PROPERTY", problem)

    return reject


def _dropping_unknown(path: str, _declared: Sequence[str]) -> _Unknown:
    def drop(name: str, value: JSON, _kept: dict[str, JSON], report: Report) -> None:
        report.coerced(lambda: property_path(path, name), CoercionKind.UNKNOWN_DROPPED, value, None)

    return drop


def _keeping_unknown(path: str, _declared: Sequence[str]) -> _Unknown:
    def keep(name: str, value: JSON, kept: dict[str, JSON], report: Report) -> None:
        after = value
        kind = type(value)
        if kind is int or kind is float:
            number: Any = value
            after = canonical_number(number)
            if not is_exact(number):
                _report_inexact_number(report, lambda: property_path(path, name), _FINITE, number, after)
        elif (kind is dict or kind is list) and not all_exact(value):
            after = _with_doubles(value, property_path(path, name), report)
        kept[name] = after

    return keep


_UNKNOWN: Final[Mapping[UnknownProperties, Callable[[str, Sequence[str]], _Unknown]]] = {
    UnknownProperties.REJECT: _rejecting_unknown,
    UnknownProperties.DROP: _dropping_unknown,
    UnknownProperties.KEEP: _keeping_unknown,
}

coerce_undefined: Final[Coercer] = compile_schema(Schema((), UnknownProperties.KEEP, CoercionMode.STRICT))
"""Coerces the payload of an event without a definition: it is kept, with its numbers in canonical form."""
