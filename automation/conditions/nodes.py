"""The syntax tree of a condition.

`start` and `end` are offsets into its text, including parentheses; `height` is the number of levels down to the leaves,
where a pair of parentheses counts as one. Parsing limits the height, so a tree can be walked by recursion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from registry.paths import property_path

if TYPE_CHECKING:
    from collections.abc import Iterator

PROPERTIES: Final = "properties"
EVENT: Final = "event"
CONTACT: Final = "contact"
ROOTS: Final = frozenset({PROPERTIES, EVENT, CONTACT})


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of every node."""

    start: int
    end: int
    height: int = 1


class Literal(Base, frozen=True, kw_only=True):
    """A constant: None, bool, Int, float or str."""

    value: Any


class ListOf(Base, frozen=True, kw_only=True):
    """`[a, b]`."""

    items: tuple[Node, ...]


class Path(Base, frozen=True, kw_only=True):
    """`properties.a["b"]`: fixed names from one of the roots; `names` begins with the root.

    `indexed` is true if the last name is in brackets.
    """

    names: tuple[str, ...]
    indexed: bool = False

    def __str__(self) -> str:
        text = self.names[0]
        for name in self.names[1:]:
            text = property_path(text, name)
        return text


class Variable(Base, frozen=True, kw_only=True):
    """The variable of a macro: its current item."""

    name: str


class Select(Base, frozen=True, kw_only=True):
    """`operand.name`, if the operand is not a path."""

    operand: Node
    name: str


class Index(Base, frozen=True, kw_only=True):
    """`operand[key]`, if it is not a path."""

    operand: Node
    key: Node


class Has(Base, frozen=True, kw_only=True):
    """`has(field)`."""

    field: Path | Select


class Unary(Base, frozen=True, kw_only=True):
    """`!` or `-`."""

    operator: str
    operand: Node


class Binary(Base, frozen=True, kw_only=True):
    """A comparison, `in`, or arithmetic."""

    operator: str
    left: Node
    right: Node


class Logical(Base, frozen=True, kw_only=True):
    """`&&` or `||` between two parts or more."""

    operator: str
    parts: tuple[Node, ...]


class Conditional(Base, frozen=True, kw_only=True):
    """`condition ? then : otherwise`."""

    condition: Node
    then: Node
    otherwise: Node


class Call(Base, frozen=True, kw_only=True):
    """A function; the receiver of a method is its first argument."""

    function: str
    arguments: tuple[Node, ...]


class Macro(Base, frozen=True, kw_only=True):
    """`list.exists(variable, body)` or `all`."""

    function: str
    operand: Node
    variable: str
    body: Node


Node: TypeAlias = (
    Literal | ListOf | Path | Variable | Select | Index | Has | Unary | Binary | Logical | Conditional | Call | Macro
)


def children(node: Node) -> tuple[Node, ...]:  # noqa: PLR0911 - a line for each shape
    """Return the parts of a node from left to right."""
    match node:
        case ListOf(items=parts) | Logical(parts=parts) | Call(arguments=parts):
            return parts
        case Select(operand=operand) | Unary(operand=operand) | Has(field=operand):
            return (operand,)
        case Index(operand=operand, key=key):
            return (operand, key)
        case Binary(left=left, right=right):
            return (left, right)
        case Conditional(condition=condition, then=then, otherwise=otherwise):
            return (condition, then, otherwise)
        case Macro(operand=operand, body=body):
            return (operand, body)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """Yield the nodes of a tree, each before its parts."""
    pending = [node]
    while pending:
        here = pending.pop()
        yield here
        pending.extend(reversed(children(here)))
