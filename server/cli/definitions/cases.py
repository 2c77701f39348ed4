"""Test cases in YAML files: example payloads, validated offline. docs/definitions.md describes the format.

A payload takes the same path as that of an event on a server: it becomes a Struct, is read within the budgets of an
event, and is coerced by the compiled schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from registry.coercion.validation import compile_schema
from registry.errors import PayloadRejected
from server.cli.arguments.message_parsers import to_struct
from server.cli.definitions.documents import read_definitions
from server.cli.definitions.yaml_files import (
    Entry,
    FileErrors,
    did_you_mean,
    error_at,
    files_in,
    flag_of,
    json_of,
    load,
    mapping,
    members,
    place_of,
    quoted,
    sequence,
    text_of,
)
from server.errors import InvalidArgument
from server.rpc.messages.structs import read_struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from google.protobuf.struct_pb2 import Struct
    from yaml import Node

    from registry.coercion.report import Coercion
    from registry.coercion.validation import Coercer
    from registry.errors import Violation

_FILE: Final = ("definitions", "cases")
_CASE: Final = ("name", "event", "properties", "expect")
_EXPECT: Final = ("valid", "properties", "coercions", "reasons")
_FIELDS_OF_THE_OPPOSITE: Final = {True: ("reasons",), False: ("properties", "coercions")}


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expected result of a case; fields that are None are not checked."""

    valid: bool = True
    properties: dict[str, Any] | None = None
    coercions: tuple[str, ...] | None = None
    reasons: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A payload, the coercer of its definition, and the expected result; `place` is FILE:LINE:COLUMN."""

    name: str
    event: str
    place: str
    coerce: Coercer
    payload: Struct
    expect: Expectation


@dataclass(frozen=True, slots=True)
class CaseFile:
    """The cases of one file, in order."""

    path: Path
    cases: tuple[Case, ...]


class Mismatch(NamedTuple):
    """A field of the result that differs from the expectation."""

    what: str
    expected: Any
    got: Any


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a case. `properties` is None for an invalid payload; `seconds` is the time that it took."""

    case: Case
    properties: dict[str, Any] | None
    coercions: tuple[Coercion, ...]
    violations: tuple[Violation, ...]
    seconds: float

    @property
    def valid(self) -> bool:
        """Whether the payload was accepted."""
        return self.properties is not None

    def mismatches(self) -> list[Mismatch]:
        """Return all mismatches; none if the case passes."""
        expect = self.case.expect
        found = [
            ("valid", expect.valid, self.valid),
            ("properties", expect.properties, self.properties),
            ("coercions", _sorted(expect.coercions), _sorted(coercion.path for coercion in self.coercions)),
            ("reasons", expect.reasons, {one.path: one.reason for one in self.violations}),
        ]
        return [
            Mismatch(what, expected, got)
            for what, expected, got in found
            if expected is not None and _canonical(expected) != _canonical(got)
        ]


def run_case(case: Case) -> Result:
    """Validate the payload of a case as a server does."""
    started = perf_counter()
    try:
        coerced = case.coerce(read_struct(case.payload))
    except (InvalidArgument, PayloadRejected) as error:
        return Result(case, None, (), error.violations, perf_counter() - started)
    return Result(case, coerced.properties, coerced.coercions, (), perf_counter() - started)


def read_cases(paths: Iterable[Path], definitions: Sequence[Path]) -> list[CaseFile]:
    """Read files and folders of cases; `definitions` replaces the definitions that the files name.

    Raise Failure with all errors of the files.
    """
    errors = FileErrors()
    files = []
    coercers = cache(_coercers)
    with errors.gathered():
        for path in files_in(paths):
            with errors.gathered():
                files.append(_read_file(path, tuple(definitions), coercers, errors))
    errors.stop()
    return files


def _read_file(
    path: Path,
    definitions: tuple[Path, ...],
    coercers_of: Callable[[tuple[Path, ...]], Mapping[str, Coercer]],
    errors: FileErrors,
) -> CaseFile:
    root = load(path)
    fields = members(root, "a file of cases", _FILE)
    if "cases" not in fields:
        raise error_at(root, "cases are missing: list them under cases:")
    coercers = coercers_of(definitions or _named(path, root, fields))
    cases: list[Case] = []
    nodes = sequence(fields["cases"], "cases")
    if not nodes:
        raise error_at(fields["cases"], "cases is empty: list at least one")
    for number, node in enumerate(nodes, 1):
        with errors.gathered():
            cases.append(_read_case(node, number, coercers))
    return CaseFile(path, tuple(cases))


def _named(path: Path, root: Node, fields: Mapping[str, Node]) -> tuple[Path, ...]:
    """Return the path of the definitions that a file of cases names, relative to that file."""
    if "definitions" not in fields:
        raise error_at(root, "definitions are missing: add definitions: PATH, or give them with --definitions")
    found = path.parent / text_of(fields["definitions"], "definitions")
    if not found.exists():
        raise error_at(fields["definitions"], f"there is no {found}")
    return (found,)


def _coercers(paths: tuple[Path, ...]) -> dict[str, Coercer]:
    """Compile definitions. Raise Failure with all errors of the files."""
    return {each.name: compile_schema(each.schema) for each in read_definitions(paths)}


def _read_case(node: Node, number: int, coercers: Mapping[str, Coercer]) -> Case:
    fields = members(node, "a case", _CASE)
    if "event" not in fields:
        raise error_at(node, "the case has no event: add one, such as event: order_completed")
    event = text_of(fields["event"], "event")
    if event not in coercers:
        meant = did_you_mean(event, tuple(coercers))
        raise error_at(fields["event"], f"the definitions have no event {quoted(event)}{meant}")
    return Case(
        name=text_of(fields["name"], "name") if "name" in fields else f"case {number}",
        event=event,
        place=place_of(node),
        coerce=coercers[event],
        payload=_payload(fields["properties"]) if "properties" in fields else to_struct({}),
        expect=_expectation(fields["expect"]) if "expect" in fields else Expectation(),
    )


def _expectation(node: Node) -> Expectation:
    fields = members(node, "expect", _EXPECT)
    valid = flag_of(fields["valid"], "valid") if "valid" in fields else True
    for name in _FIELDS_OF_THE_OPPOSITE[valid]:
        if name in fields:
            right = "a valid payload has no reasons: write valid: false" if valid else "an invalid payload has none"
            raise error_at(fields[name], f"{name} cannot be expected where valid is {str(valid).lower()}; {right}")
    return Expectation(
        valid=valid,
        properties=read_struct(_payload(fields["properties"])) if "properties" in fields else None,
        coercions=_texts(fields["coercions"]) if "coercions" in fields else None,
        reasons=_reasons(fields["reasons"]) if "reasons" in fields else None,
    )


def _payload(node: Node) -> Struct:
    values = {entry.name: json_of(entry.value) for entry in mapping(node, "properties")}
    try:
        return to_struct(values)
    except ValueError as error:
        raise error_at(node, str(error)) from None


def _texts(node: Node) -> tuple[str, ...]:
    return tuple(text_of(item, "the path of a property") for item in sequence(node, "coercions"))


def _reasons(node: Node) -> dict[str, str]:
    entries: list[Entry] = mapping(node, "reasons")
    return {entry.name: text_of(entry.value, "a reason") for entry in entries}


def _sorted(paths: Iterable[str] | None) -> list[str] | None:
    return None if paths is None else sorted(paths)


def _canonical(value: Any) -> str:
    """Return a text that is equal for equal JSON values: 1 is not true, and the order of names does not matter."""
    return json.dumps(value, sort_keys=True)
