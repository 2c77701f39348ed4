"""The closures of which compiled conditions are made, each from the closures of its parts.

A closure takes the subject and a frame, and returns a value or a Failure. The frame is a list made for one
evaluation: first the steps that it may still take, then the items that the macros around the closure are at. A step
is about one node evaluated; outside macros, work is paid for only where it grows with the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from automation.conditions.subject import Subject
from automation.conditions.values import ORDER, Failure, equal, error, kind_of, ordered, weight

if TYPE_CHECKING:
    from automation.conditions.regexes import Regex

Frame: TypeAlias = list[Any]
Closure: TypeAlias = Callable[[Subject, Frame], Any]

MAX_STEPS: Final = 100_000
TOO_MUCH: Final = error(f"The evaluation takes more than {MAX_STEPS:,} steps")


def not_boolean(value: object) -> Failure:
    """Make the failure of what should have been true or false."""
    return error(f"A boolean is needed here, not {kind_of(value)}")


def variable(slot: int) -> Closure:
    """Read the item that a macro is at."""
    return lambda subject, frame: frame[slot]


def strict(operation: Callable[..., Any], parts: list[Closure]) -> Closure:
    """Apply an operation to the values of its parts, unless one of them failed."""
    if len(parts) == 1:
        return _strict_unary(operation, parts[0])
    left, right = parts

    def run(subject: Subject, frame: Frame) -> Any:
        one = left(subject, frame)
        if type(one) is Failure:
            return one
        other = right(subject, frame)
        return other if type(other) is Failure else operation(one, other)

    return run


def _strict_unary(operation: Callable[[Any], Any], part: Closure) -> Closure:
    def run(subject: Subject, frame: Frame) -> Any:
        value = part(subject, frame)
        return value if type(value) is Failure else operation(value)

    return run


def metered(price: Callable[[Any, Any], int], operation: Callable[[Any, Any], Any], parts: list[Closure]) -> Closure:
    """Apply an operation whose cost grows with its operands; finding out the price costs as much."""
    left, right = parts

    def run(subject: Subject, frame: Frame) -> Any:
        if frame[0] < 0:
            return TOO_MUCH
        one = left(subject, frame)
        if type(one) is Failure:
            return one
        other = right(subject, frame)
        if type(other) is Failure:
            return other
        frame[0] -= price(one, other)
        return TOO_MUCH if frame[0] < 0 else operation(one, other)

    return run


def weigh_sum(left: Any, right: Any) -> int:
    """Price `+`: a string by its characters, a list by its items, numbers nothing."""
    if type(left) is str is type(right):
        return (len(left) + len(right)) // 16
    return len(left) + len(right) if type(left) is list is type(right) else 0


def weigh_list(item: Any, container: Any) -> int:
    """Price `in`: a list by all that is in it; a name of an object is found at once."""
    return weight(container) if type(container) is list else 0


def equals(left: Closure, right: Closure, *, wanted: bool) -> Closure:
    """Compare two parts by `==`, or by `!=` if equality is not wanted."""

    def compare(one: Any, other: Any) -> bool:
        return equal(one, other) is wanted

    def price(one: Any, other: Any) -> int:
        kind = type(one)
        return weight(one) + weight(other) if kind is type(other) and (kind is list or kind is dict) else 0

    return metered(price, compare, [left, right])


def equals_constant(read: Closure, constant: Any, *, wanted: bool) -> Closure:
    """Compare a part with a constant by `==` or `!=`."""
    if constant is None or type(constant) is bool:

        def same(subject: Subject, frame: Frame) -> Any:
            value = read(subject, frame)
            return value if type(value) is Failure else (value is constant) is wanted

        return same

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        if value == constant:
            return wanted is (type(value) is not bool)
        return value if type(value) is Failure else not wanted

    return run


def ordered_by_number(symbol: str, read: Closure, constant: Any) -> Closure:
    """Compare a part with a constant number by `<`, `<=`, `>` or `>=`."""
    compare = ORDER[symbol]

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        kind = type(value)
        if kind is float or kind is int:
            return compare(value, constant)
        return value if kind is Failure else ordered(symbol, value, constant)

    return run


def in_constants(read: Closure, values: list[Any]) -> Closure:
    """Look a part up among constants."""
    # 1 and True are one key to Python and two values to CEL.
    known = {(type(value) is bool, value) for value in values if value == value}  # noqa: PLR0124 - NaN equals nothing

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        kind = type(value)
        if kind is Failure:
            return value
        return False if kind is list or kind is dict else (kind is bool, value) in known

    return run


def list_of(parts: list[Closure]) -> Closure:
    """Make a list of the parts."""

    def run(subject: Subject, frame: Frame) -> Any:
        items = []
        for part in parts:
            value = part(subject, frame)
            if type(value) is Failure:
                return value
            items.append(value)
        return items

    return run


def negation(part: Closure) -> Closure:
    """Apply `!`."""

    def run(subject: Subject, frame: Frame) -> Any:
        value = part(subject, frame)
        if value is True or value is False:
            return not value
        return value if type(value) is Failure else not_boolean(value)

    return run


def logical(*, decisive: bool, parts: list[Closure]) -> Closure:
    """Join parts by `||` if True is decisive, else by `&&`: a decisive part absorbs the failures of the others."""

    def run(subject: Subject, frame: Frame) -> Any:
        failure = None
        for part in parts:
            value = part(subject, frame)
            if value is decisive:
                return decisive
            if failure is None and value is not (not decisive):
                failure = value if type(value) is Failure else not_boolean(value)
        return not decisive if failure is None else failure

    return run


def conditional(condition: Closure, then: Closure, otherwise: Closure) -> Closure:
    """Evaluate the alternative that the condition chooses."""

    def run(subject: Subject, frame: Frame) -> Any:
        value = condition(subject, frame)
        if value is True:
            return then(subject, frame)
        if value is False:
            return otherwise(subject, frame)
        return value if type(value) is Failure else not_boolean(value)

    return run


def macro(operand: Closure, body: Closure, slot: int, steps: int, *, decisive: bool) -> Closure:
    """Judge the items of a list, or the names of an object, as `||` or `&&` would join the verdicts."""

    def run(subject: Subject, frame: Frame) -> Any:
        items = operand(subject, frame)
        if type(items) is not list and type(items) is not dict:
            return items if type(items) is Failure else error(f"There are no items in {kind_of(items)}")
        failure = None
        for item in items:
            frame[0] -= steps
            if frame[0] < 0:
                return TOO_MUCH
            frame[slot] = item
            value = body(subject, frame)
            if value is decisive:
                return decisive
            if failure is None and value is not (not decisive):
                failure = value if type(value) is Failure else not_boolean(value)
        return not decisive if failure is None else failure

    return run


def matches(read: Closure, regex: Regex) -> Closure:
    """Search for a pattern in a part."""

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        if type(value) is not str:
            return value if type(value) is Failure else error(f"matches takes a string, not {kind_of(value)}")
        frame[0] -= regex.steps(value)
        return TOO_MUCH if frame[0] < 0 else regex.search(value) is not None

    return run
