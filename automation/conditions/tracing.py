"""Tracing: the verdict of each clause of a condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from automation.conditions.closures import not_boolean
from automation.conditions.compiling import compile_node, limited, new_frame
from automation.conditions.errors import line_and_column
from automation.conditions.nodes import Binary, Call, Conditional, Has, Logical, Macro, Path, Unary, walk
from automation.conditions.values import SECOND, Duration, Failure, Timestamp, Verdict
from registry.times.timestamps import format_millis

if TYPE_CHECKING:
    from automation.conditions.nodes import Node
    from automation.conditions.parsing import Expression
    from automation.conditions.subject import Subject
    from registry.values.plain_json import JSON

MAX_SHOWN = 1024
"""The most characters of JSON; a larger value is shown as a string of its first characters."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A value as JSON; times become text."""

    value: JSON
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause with its verdict; the fields are described in the protos."""

    depth: int
    expression: str
    line: int
    column: int
    verdict: Verdict
    operator: str
    path: str
    actual: Shown | None
    operand: Shown | None
    message: str
    reads: frozenset[tuple[str, ...]] = frozenset()
    """The paths that the clause reads, each by its names, beginning with the root."""
    masked: bool = False


def trace_condition(expression: Expression, subject: Subject) -> list[Clause]:
    """Evaluate a condition and return all its clauses, each before its parts."""
    if not expression.text.strip():
        return []
    trace = _Trace(expression, subject)
    trace.evaluate(expression.root, 0)
    return trace.clauses


_Outcome: TypeAlias = "bool | Failure"


class _Trace:
    """One evaluation, in the order of the compiled condition and with the same steps, so that it has the same verdict.

    Reading values in order to show them spends steps of its own.
    """

    def __init__(self, expression: Expression, subject: Subject) -> None:
        self._text = expression.text
        self._subject = subject
        self._frame = new_frame(expression.root)
        self._limit = self._frame[0]
        self._spare = self._frame.copy()
        self._shown_paths: dict[tuple[str, ...], Shown | None] = {}
        self.clauses: list[Clause] = []

    def evaluate(self, node: Node, depth: int) -> _Outcome:
        """Return the outcome of a clause, and append the clause and its parts."""
        index = len(self.clauses)
        outcome = self._outcome(node, depth)
        self.clauses.insert(index, self._clause(node, depth, outcome))
        return outcome

    def _outcome(self, node: Node, depth: int) -> _Outcome:
        match node:
            case Logical(operator=operator, parts=parts):
                return self._logical(parts, depth, decisive=operator == "||")
            case Unary(operator="!", operand=operand):
                value = self.evaluate(operand, depth + 1)
                return value if isinstance(value, Failure) else not value
            case Conditional(condition=condition, then=then, otherwise=otherwise):
                return self._conditional(condition, then, otherwise, depth)
            case _:
                value = compile_node(node)(self._subject, self._frame)
                return limited(value, self._limit) if type(value) in {bool, Failure} else not_boolean(value)

    def _logical(self, parts: tuple[Node, ...], depth: int, *, decisive: bool) -> _Outcome:
        failure = None
        for number, part in enumerate(parts, start=1):
            outcome = self.evaluate(part, depth + 1)
            if outcome is decisive:
                self._skip(parts[number:], depth + 1)
                return decisive
            if failure is None and isinstance(outcome, Failure):
                failure = outcome
        return not decisive if failure is None else failure

    def _conditional(self, condition: Node, then: Node, otherwise: Node, depth: int) -> _Outcome:
        chosen = self.evaluate(condition, depth + 1)
        if isinstance(chosen, Failure):
            self._skip((then, otherwise), depth + 1)
            return chosen
        if chosen:
            outcome = self.evaluate(then, depth + 1)
            self._skip((otherwise,), depth + 1)
            return outcome
        self._skip((then,), depth + 1)
        return self.evaluate(otherwise, depth + 1)

    def _skip(self, nodes: tuple[Node, ...], depth: int) -> None:
        for node in nodes:
            self.clauses.append(self._clause(node, depth, None))
            self._skip(_parts(node), depth + 1)

    def _clause(self, node: Node, depth: int, outcome: _Outcome | None) -> Clause:
        line, column = line_and_column(self._text, node.start)
        path, operand = (None, None) if _parts(node) else _read_and_compared(node)
        evaluated = outcome is not None
        return Clause(
            depth=depth,
            expression=self._text[node.start : node.end],
            line=line,
            column=column,
            verdict=_verdict(outcome),
            operator=_operator(node),
            path=str(path) if path else "",
            actual=self._shown_path(path) if path and evaluated else None,
            operand=self._shown(operand) if operand and evaluated else None,
            message=outcome.message if isinstance(outcome, Failure) else "",
            reads=frozenset(part.names for part in walk(node) if isinstance(part, Path)),
        )

    def _shown_path(self, path: Path) -> Shown | None:
        if path.names not in self._shown_paths:
            self._shown_paths[path.names] = self._shown(path)
        return self._shown_paths[path.names]

    def _shown(self, node: Node) -> Shown | None:
        value = compile_node(node)(self._subject, self._spare)
        return None if type(value) is Failure else shown(value)


def _verdict(outcome: _Outcome | None) -> Verdict:
    if outcome is None:
        return Verdict.NOT_EVALUATED
    if isinstance(outcome, Failure):
        return outcome.verdict
    return Verdict.TRUE if outcome else Verdict.FALSE


def _parts(node: Node) -> tuple[Node, ...]:
    """Return the parts of a clause that are clauses themselves."""
    match node:
        case Logical(parts=parts):
            return parts
        case Unary(operator="!", operand=operand):
            return (operand,)
        case Conditional(condition=condition, then=then, otherwise=otherwise):
            return (condition, then, otherwise)
        case _:
            return ()


def _operator(node: Node) -> str:
    match node:
        case Logical(operator=operator) | Unary(operator=operator) | Binary(operator=operator):
            return operator
        case Call(function=function) | Macro(function=function):
            return function.removeprefix(".")
        case Has():
            return "has"
        case Conditional():
            return "?:"
        case _:
            return ""


def _read_and_compared(node: Node) -> tuple[Path | None, Node | None]:
    """Return the path that a clause reads, and the operand with which it is compared."""
    match node:
        case Binary(left=left, right=right) | Call(arguments=(left, right)):
            path = _first_path(left)
            return (path, right) if path else (_first_path(right), left)
        case _:
            return _first_path(node), None


def _first_path(node: Node) -> Path | None:
    return next((part for part in walk(node) if isinstance(part, Path)), None)


def shown(value: Any) -> Shown:
    """Return a value as JSON, truncated if it is large."""
    plain = _plain(value)
    text = msgspec.json.encode(plain).decode()
    return Shown(plain) if len(text) <= MAX_SHOWN else Shown(text[:MAX_SHOWN], truncated=True)


def _plain(value: Any) -> JSON:
    match value:
        case Timestamp(nanos=nanos):
            return format_millis(nanos // 1000)
        case Duration(nanos=nanos):
            return f"{'-' if nanos < 0 else ''}{abs(nanos) // SECOND}{_fraction(abs(nanos) % SECOND)}s"
        case list():
            return [_plain(item) for item in value]
        case bool() | float() | str() | dict() | None:
            return value
        case _:
            return int(value)


def _fraction(nanos: int) -> str:
    return f".{nanos:09}".rstrip("0") if nanos else ""
