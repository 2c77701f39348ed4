"""The compiler of conditions, from a syntax tree to nested closures.

Decisions that every evaluation would repeat are made here, once: which operator, which slot, which sides are constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from automation.conditions.closures import (
    LATE_COST,
    LATE_TOO_MUCH,
    MAX_COST,
    TOO_MUCH,
    conditional,
    equals,
    equals_constant,
    in_constants,
    list_of,
    logical,
    macro,
    matches,
    metered,
    negation,
    not_boolean,
    ordered_by_number,
    strict,
    variable,
    weigh_list,
    weigh_sum,
)
from automation.conditions.nodes import (
    Binary,
    Call,
    Conditional,
    Has,
    Index,
    ListOf,
    Literal,
    Logical,
    Macro,
    Path,
    Select,
    Unary,
    Variable,
    children,
    walk,
)
from automation.conditions.reading import compile_path, has_name, has_path, index, select
from automation.conditions.regexes import Regex
from automation.conditions.subject import Subject
from automation.conditions.values import (
    ORDER,
    Failure,
    Int,
    arithmetic,
    contains,
    duration,
    ends_with,
    has_part,
    negative,
    ordered,
    size,
    starts_with,
    timestamp,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from automation.conditions.closures import Closure, Frame
    from automation.conditions.nodes import Node

Evaluate: TypeAlias = Callable[[Subject], "bool | Failure"]

Spend: TypeAlias = Callable[[Subject, int], "tuple[bool | Failure, int]"]
"""Evaluates a condition with at most a number of steps. Returns the outcome and its cost in steps."""

UNLIMITED: Final = 2**60
"""Room for an evaluation of any cost."""

_ABSENT: Final[Any] = object()

EVALUATION_COST: Final = 4
"""The cost of beginning an evaluation, about half a microsecond."""

LATE: Final = frozenset({("event", "id"), ("event", "received_at"), ("contact", "id")})
"""The paths whose values only the commit knows: it makes them from the position, the log's time and new contacts."""


class OutOfRoom(Exception):
    """The evaluation takes more steps than its caller has room for, so it has no outcome."""


def compile_condition(root: Node) -> Spend:
    """Return the compiled condition.

    It evaluates to True, False or a Failure that no `&&` or `||` absorbed. Its cost is `base_cost` and the steps that
    it spent. Raise OutOfRoom if that takes more than the given steps, and the condition's limit is higher.
    """
    run = compile_node(root)
    fresh = new_frame(root)
    limit, base = fresh[0], base_cost(root)

    def spend(subject: Subject, room: int) -> tuple[bool | Failure, int]:
        frame = fresh.copy()
        room -= base
        if room < limit:
            frame[0] = room
        value = run(subject, frame)
        left = frame[0]
        if left < 0:
            if room < limit:
                raise OutOfRoom
            left = 0
        cost = base + min(room, limit) - left
        if value is True or value is False or type(value) is Failure:
            return limited(value, limit), cost
        return not_boolean(value), cost

    return spend


def compile_plain(root: Node) -> Evaluate:
    """Return the compiled condition if it spends no steps: none of its operations has a price.

    It has no macros either, so that nothing changes the frame, and all evaluations share one.
    """
    run = compile_node(root)
    frame = new_frame(root)

    def evaluate(subject: Subject) -> bool | Failure:
        value = run(subject, frame)
        if value is True or value is False or type(value) is Failure:
            return value
        return not_boolean(value)

    return evaluate


def base_cost(root: Node) -> int:
    """Return the cost of each evaluation of a condition: EVALUATION_COST and a step for each of its nodes."""
    return EVALUATION_COST + sum(1 for _ in walk(root))


def limited(outcome: Any, limit: int) -> Any:
    """Return an outcome; a failure at a lower limit than MAX_COST has a message that names this limit."""
    return LATE_TOO_MUCH if outcome is TOO_MUCH and limit < MAX_COST else outcome


def is_late(root: Node) -> bool:
    """Return whether a condition reads a value that only the commit knows."""
    return any(isinstance(node, Path) and node.names in LATE for node in walk(root))


def new_frame(root: Node) -> Frame:
    """Return the frame for one evaluation of a whole condition."""
    limit = LATE_COST if is_late(root) else MAX_COST
    return [limit] + [None] * sum(isinstance(node, Macro) for node in walk(root))


def compile_node(node: Node) -> Closure:
    """Return the closure of a node outside macros."""
    return _Compiler({}, 0).compile(node)


class _Compiler:
    """Compiles the nodes inside `depth` macros; `slots` has the slots of their variables in the frame."""

    def __init__(self, slots: Mapping[str, int], depth: int) -> None:
        self._slots = slots
        self._depth = depth

    def compile(self, node: Node) -> Closure:  # noqa: PLR0911 - a line for each node
        match node:
            case Literal(value=value):
                return lambda subject, frame: value
            case Path():
                return compile_path(node)
            case Variable(name=name):
                return variable(self._slots[name])
            case Binary():
                return self._binary(node)
            case Logical(operator=operator, parts=parts):
                return logical(decisive=operator == "||", parts=[self.compile(part) for part in parts])
            case Unary(operator="!", operand=operand):
                return negation(self.compile(operand))
            case Has(field=Path() as field):
                return has_path(field)
            case Macro():
                return self._macro(node)
            case Call():
                return self._call(node)
            case _:
                return self._operation(node)

    def _operation(self, node: Node) -> Closure:
        parts = [self.compile(part) for part in children(node)]
        match node:
            case ListOf():
                return list_of(parts)
            case Unary():
                return strict(negative, parts)
            case Select(name=name):
                return strict(lambda operand: select(operand, name), parts)
            case Has(field=Select(operand=operand, name=name)):
                return strict(lambda value: has_name(value, name), [self.compile(operand)])
            case Index():
                return strict(index, parts)
            case _:
                assert isinstance(node, Conditional)
                return conditional(*parts)

    def _binary(self, node: Binary) -> Closure:
        left, right = node.left, node.right
        symbol = node.operator
        if symbol in {"==", "!="}:
            if isinstance(left, Literal):
                left, right = right, left
            if isinstance(right, Literal):
                return equals_constant(self.compile(left), right.value, expected=symbol == "==")
            return equals(self.compile(left), self.compile(right), expected=symbol == "==")
        if symbol == "in":
            return self._membership(left, right)
        if symbol in ORDER:
            constant = constant_of(right)
            if type(constant) in {Int, float}:
                return ordered_by_number(symbol, self.compile(left), constant)
            return strict(lambda a, b: ordered(symbol, a, b), [self.compile(left), self.compile(right)])
        return metered(weigh_sum, lambda a, b: arithmetic(symbol, a, b), [self.compile(left), self.compile(right)])

    def _membership(self, left: Node, right: Node) -> Closure:
        if isinstance(right, ListOf) and all(isinstance(item, Literal) for item in right.items):
            values = [item.value for item in right.items if isinstance(item, Literal)]
            return in_constants(self.compile(left), values)
        return metered(weigh_list, contains, [self.compile(left), self.compile(right)])

    def _macro(self, node: Macro) -> Closure:
        slot = self._depth + 1
        body = _Compiler({**self._slots, node.variable: slot}, slot).compile(node.body)
        cost = sum(1 for _ in walk(node.body))
        return macro(self.compile(node.operand), body, slot, cost, decisive=node.function == "exists")

    def _call(self, node: Call) -> Closure:
        name = node.function.removeprefix(".")
        constant = constant_of(node)
        if constant is not _ABSENT:
            return lambda subject, frame: constant
        parts = [self.compile(part) for part in node.arguments]
        if name == "matches":
            pattern = node.arguments[1]
            assert isinstance(pattern, Literal)
            return matches(parts[0], Regex(str(pattern.value)))
        if name == "contains":
            return metered(lambda text, part: len(text) // 64 if type(text) is str else 0, has_part, parts)
        return strict(FUNCTIONS[name], parts)


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "size": size,
    "timestamp": timestamp,
    "duration": duration,
    "startsWith": starts_with,
    "endsWith": ends_with,
}


def constant_of(node: Node) -> Any:
    """Return the value of a literal, or of a time made of one; `_ABSENT` for other nodes and for failures."""
    match node:
        case Literal(value=value):
            return value
        case Call(function="timestamp" | "duration" as name, arguments=(Literal(value=value),)):
            made = FUNCTIONS[name](value)
            return _ABSENT if type(made) is Failure else made
        case _:
            return _ABSENT
