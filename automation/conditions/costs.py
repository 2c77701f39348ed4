"""Estimates of what evaluating a condition costs, from its text and the size of a payload, without evaluating it.

Only operations whose cost grows with the data have a price here, as in `closures`. An estimate is a polynomial of the
payload's size in bytes of JSON: the constants of `Growth` are the coefficients, lowest power first. It decides where a
condition is evaluated and is not a limit, so it may be wrong: values can grow, and contacts have properties, too.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final, TypeAlias

from automation.conditions.nodes import Binary, Call, ListOf, Literal, Macro, children, walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from automation.conditions.nodes import Node

Growth: TypeAlias = tuple[float, ...]

_ITEMS: Final = 0.5
"""The most items per byte of JSON: an item and its comma."""


def growth(node: Node) -> Growth:  # noqa: PLR0911 - a line for each operation
    """Return the estimate for a part of a condition; empty if its cost does not grow with the data."""
    total = combined(growth(part) for part in children(node) if not isinstance(node, Macro))
    match node:
        case Macro(operand=operand, body=body):
            cost = sum(1 for _ in walk(body))
            items = combined([(float(cost),), growth(body)])
            return combined([growth(operand), (0.0, *(_ITEMS * coefficient for coefficient in items))])
        case Call(function=".matches", arguments=(_, Literal(value=pattern))):
            return combined([total, (1.0, len(str(pattern)) / 16)])
        case Call(function=".contains"):
            return combined([total, (0.0, 1 / 64)])
        case Binary(operator="+" | "-" | "*" | "/" | "%"):
            return combined([total, (0.0, 1 / 8)])
        case Binary(operator="==" | "!=", left=left, right=right):
            constant = isinstance(left, Literal) or isinstance(right, Literal)
            return total if constant else combined([total, (0.0, 1.0)])
        case Binary(operator="in", right=right):
            constant = isinstance(right, ListOf) and all(isinstance(item, Literal) for item in right.items)
            return total if constant else combined([total, (0.0, 1.0)])
        case _:
            return total


def combined(estimates: Iterable[Growth]) -> Growth:
    """Return the sum of estimates."""
    return tuple(sum(coefficients) for coefficients in zip_longest(*estimates, fillvalue=0.0))


def estimated(estimate: Growth, size: int) -> float:
    """Return the estimated cost for a payload of a size in bytes."""
    cost = 0.0
    for coefficient in reversed(estimate):
        cost = cost * size + coefficient
    return cost
