"""The closures of compiled conditions, each made from the closures of its parts.

A closure takes the subject and a frame, and returns a value or a Failure; it never raises. A frame belongs to one
evaluation: frame[0] is the number of remaining steps, the other slots hold the current items of the enclosing macros.

Steps bound the time of an evaluation, whatever the condition and the payload: about 100,000 evaluated nodes. The nodes
of a condition are limited by its length, so evaluating each of them once needs no metering. Steps are spent only where
work grows with the data: by macros, for their body at each item, and by the operations of `metered` and `matches`.
An evaluation may be given fewer steps than the condition's own limit, by the room that its caller has; then it does
not fail when they have run out, but has no outcome (`OutOfRoom`).
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

MAX_COST: Final = 100_000
TOO_MUCH: Final = error(f"The evaluation takes more than {MAX_COST:,} steps")

LATE_COST: Final = 10_000
"""The limit of a condition that reads a value which is only known in the commit, where all senders wait for it."""
LATE_TOO_MUCH: Final = error(
    f"The evaluation takes more than {LATE_COST:,} steps, the limit of conditions that read event.id,"
    " event.received_at or contact.id"
)


def not_boolean(value: object) -> Failure:
    """Return the failure of a value that should have been true or false."""
    return error(f"A boolean is needed here, not {kind_of(value)}")


def variable(slot: int) -> Closure:
    """Return the closure of the current item of a macro."""
    return lambda subject, frame: frame[slot]


def strict(operation: Callable[..., Any], parts: list[Closure]) -> Closure:
    """Return the closure of an operation on the values of its parts; the first failure of a part is its result."""
    if len(parts) == 1:
        return _strict_unary(operation, parts[0])
    left, right = parts

    def run(subject: Subject, frame: Frame) -> Any:
        left_value = left(subject, frame)
        if type(left_value) is Failure:
            return left_value
        right_value = right(subject, frame)
        return right_value if type(right_value) is Failure else operation(left_value, right_value)

    return run


def _strict_unary(operation: Callable[[Any], Any], part: Closure) -> Closure:
    def run(subject: Subject, frame: Frame) -> Any:
        value = part(subject, frame)
        return value if type(value) is Failure else operation(value)

    return run


def metered(price: Callable[[Any, Any], int], operation: Callable[[Any, Any], Any], parts: list[Closure]) -> Closure:
    """Return the closure of an operation whose cost grows with its operands; `price` returns its cost in steps.

    Computing a price may cost as much, so nothing is computed after the steps have run out.
    """
    left, right = parts

    def run(subject: Subject, frame: Frame) -> Any:
        if frame[0] < 0:
            return TOO_MUCH
        left_value = left(subject, frame)
        if type(left_value) is Failure:
            return left_value
        right_value = right(subject, frame)
        if type(right_value) is Failure:
            return right_value
        frame[0] -= price(left_value, right_value)
        return TOO_MUCH if frame[0] < 0 else operation(left_value, right_value)

    return run


def weigh_sum(left: Any, right: Any) -> int:
    """Return the cost of `+`: that of copying the characters of strings or the items of lists; none for numbers."""
    if type(left) is str is type(right):
        return (len(left) + len(right)) // 16
    return len(left) + len(right) if type(left) is list is type(right) else 0


def weigh_list(item: Any, container: Any) -> int:
    """Return the cost of `in`: all values in a list; none for an object, in which a name is looked up."""
    return weight(container) if type(container) is list else 0


def equals(left: Closure, right: Closure, *, expected: bool) -> Closure:
    """Return the closure of `==`, or of `!=` if equality is not expected."""

    def compare(left_value: Any, right_value: Any) -> bool:
        return equal(left_value, right_value) is expected

    def price(left_value: Any, right_value: Any) -> int:
        kind = type(left_value)
        return (
            weight(left_value) + weight(right_value)
            if kind is type(right_value) and (kind is list or kind is dict)
            else 0
        )

    return metered(price, compare, [left, right])


def equals_constant(read: Closure, constant: Any, *, expected: bool) -> Closure:
    """Return the closure of `==` or `!=` between a part and a constant."""
    if constant is None or type(constant) is bool:

        def same(subject: Subject, frame: Frame) -> Any:
            value = read(subject, frame)
            return value if type(value) is Failure else (value is constant) is expected

        return same

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        if value == constant:
            return expected is (type(value) is not bool)
        return value if type(value) is Failure else not expected

    return run


def ordered_by_number(symbol: str, read: Closure, constant: Any) -> Closure:
    """Return the closure of `<`, `<=`, `>` or `>=` between a part and a constant number."""
    compare = ORDER[symbol]

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        kind = type(value)
        if kind is float or kind is int:
            return compare(value, constant)
        return value if kind is Failure else ordered(symbol, value, constant)

    return run


def in_constants(read: Closure, values: list[Any]) -> Closure:
    """Return the closure of `in` with a list of constants, which are looked up in a set."""
    # For Python 1 and True are the same key, for CEL they are different values.
    constants = {(type(value) is bool, value) for value in values if value == value}  # noqa: PLR0124 - NaN equals nothing

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        kind = type(value)
        if kind is Failure:
            return value
        return False if kind is list or kind is dict else (kind is bool, value) in constants

    return run


def list_of(parts: list[Closure]) -> Closure:
    """Return the closure of a list of parts."""

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
    """Return the closure of `!`."""

    def run(subject: Subject, frame: Frame) -> Any:
        value = part(subject, frame)
        if value is True or value is False:
            return not value
        return value if type(value) is Failure else not_boolean(value)

    return run


def logical(*, decisive: bool, parts: list[Closure]) -> Closure:
    """Return the closure of `||` if True is decisive, else of `&&`.

    As in CEL, a decisive part absorbs the failures of the others: `missing == 1 || true` is true. A failure of an
    earlier part therefore does not end the evaluation.
    """

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
    """Return the closure of `condition ? then : otherwise`."""

    def run(subject: Subject, frame: Frame) -> Any:
        value = condition(subject, frame)
        if value is True:
            return then(subject, frame)
        if value is False:
            return otherwise(subject, frame)
        return value if type(value) is Failure else not_boolean(value)

    return run


def macro(operand: Closure, body: Closure, slot: int, cost: int, *, decisive: bool) -> Closure:
    """Return the closure of `exists` or `all`: `||` or `&&` over the items of a list, or the names of an object."""

    def run(subject: Subject, frame: Frame) -> Any:
        items = operand(subject, frame)
        if type(items) is not list and type(items) is not dict:
            return items if type(items) is Failure else error(f"There are no items in {kind_of(items)}")
        failure = None
        for item in items:
            frame[0] -= cost
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
    """Return the closure of a search for a pattern in a part."""

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        if type(value) is not str:
            return value if type(value) is Failure else error(f"matches takes a string, not {kind_of(value)}")
        frame[0] -= regex.cost(value)
        return TOO_MUCH if frame[0] < 0 else regex.search(value) is not None

    return run
