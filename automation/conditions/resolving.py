"""The check of the names in a condition: variables, fields of event and contact, functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from automation.conditions.nodes import (
    CONTACT,
    EVENT,
    PROPERTIES,
    ROOTS,
    Call,
    Literal,
    Macro,
    Path,
    Variable,
    children,
)
from automation.conditions.regexes import Regex
from automation.conditions.values import MAX_INT, Int
from registry.suggestions import Suggestions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from automation.conditions.nodes import Node

FIELDS: Final = {
    EVENT: ("id", "name", "occurred_at", "received_at", "revision"),
    CONTACT: ("email", "id", "properties"),
}
FUNCTIONS: Final = {
    "size": 1,
    "timestamp": 1,
    "duration": 1,
    ".size": 1,
    ".startsWith": 2,
    ".endsWith": 2,
    ".contains": 2,
    ".matches": 2,
}
"""The number of arguments of each function; the receiver of a method is its first argument."""

MACROS: Final = ("has", ".exists", ".all")
"""Names that are called like functions or methods, but take a path, or a name and a condition."""

# The reserved words of CEL.
_RESERVED = re.compile(
    "as|break|const|continue|else|for|function|if|import|let|loop|namespace|package|return|var|void|while"
)

PlacedError: TypeAlias = tuple[int, str, str]
"""Offset, reason and message of an error."""


def name_errors(node: Node, scope: frozenset[str] = frozenset()) -> Iterator[PlacedError]:
    """Yield the errors of unknown names, and of literals that are not allowed at their place, in text order."""
    match node:
        case Variable(name=name) if name not in scope:
            hint = _hint(Suggestions([*ROOTS, *scope]).closest(name)) or f"; write {PROPERTIES}.{name} for a property"
            yield node.start, "UNKNOWN_NAME", f"{name} is not defined here{hint}"
        case Path(names=(root, *fields)) if root in FIELDS:
            yield from _field_errors(node.start, root, fields)
        case Literal(value=Int() as value) if value > MAX_INT:
            yield node.start, "SYNTAX_ERROR", f"An integer may be at most {MAX_INT}"
        case Call():
            yield from _call_errors(node)
        case Macro(variable=variable) if _RESERVED.fullmatch(variable):
            yield node.start, "SYNTAX_ERROR", f"{variable} is a reserved word in CEL; use another name"
    if isinstance(node, Macro):
        yield from name_errors(node.operand, scope)
        yield from name_errors(node.body, scope | {node.variable})
        return
    for part in children(node):
        yield from name_errors(part, scope)


def _field_errors(offset: int, root: str, fields: list[str]) -> Iterator[PlacedError]:
    names = FIELDS[root]
    if not fields:
        yield offset, "UNKNOWN_NAME", f"{root} is read by its fields: {', '.join(names)}"
    elif fields[0] not in names:
        hint = _hint(Suggestions(names).closest(fields[0])) or f"; its fields are {', '.join(names)}"
        yield offset, "UNKNOWN_PROPERTY", f'{root} has no field "{fields[0]}"{hint}'
    elif len(fields) > 1 and fields[0] != PROPERTIES:
        yield offset, "TYPE_MISMATCH", f"{root}.{fields[0]} has no fields of its own"


def _call_errors(node: Call) -> Iterator[PlacedError]:
    expected, given = FUNCTIONS.get(node.function), len(node.arguments)
    method = node.function.startswith(".")
    name = node.function.removeprefix(".")
    if expected is None:
        others = [each.removeprefix(".") for each in (*FUNCTIONS, *MACROS) if each.startswith(".") == method]
        hint = _hint(Suggestions(others).closest(name)) or f"; there are {', '.join(others)}"
        yield node.start, "UNKNOWN_FUNCTION", f"There is no {'method' if method else 'function'} {name}{hint}"
    elif expected != given:
        message = f"{name} takes {_count(expected - method)}, not {given - method}"
        yield node.start, "WRONG_ARGUMENTS", message
    elif node.function == ".matches":
        yield from _pattern_errors(node.arguments[1])


def _pattern_errors(pattern: Node) -> Iterator[PlacedError]:
    match pattern:
        case Literal(value=str() as text):
            try:
                Regex(text)
            except ValueError as error:
                yield pattern.start, "INVALID_REGEX", f"The pattern is not a valid RE2 expression: {error}"
        case _:
            yield pattern.start, "INVALID_REGEX", "The pattern must be a string literal, not an expression"


def _count(arguments: int) -> str:
    return f"{arguments} argument{'' if arguments == 1 else 's'}"


def _hint(name: str | None) -> str:
    return f"; did you mean {name}?" if name else ""
