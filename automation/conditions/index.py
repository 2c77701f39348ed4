"""An index of conditions: it finds those that may hold for a subject without evaluating all of them.

A *test* compares the value at one path with constants. A *guard* of a condition is a set of tests of which at least one
passes whenever the condition holds:

    condition                                      guards
    properties.plan == "pro"                       {plan equals "pro"}
    properties.plan in ["pro", "team"]             {plan equals "pro", plan equals "team"}
    properties.total > 100.0                       {total between 100 and infinity}
    a && b                                         the guards of a, and those of b: any one of them would do
    a || b                                         a guard of a united with a guard of b
    properties.name.startsWith("x")                none

For each condition the index uses one guard, the one that is expected to select the fewest conditions, and files the
condition under each of its tests: equality in a dict, ranges of numbers in an interval tree. A lookup reads each
indexed path once and collects the conditions whose test passes, so it costs about as much as there are candidates.

The invariant: every condition that holds is a candidate. A candidate may still be false, which evaluating it shows; a
condition without a guard is always a candidate. Whatever is not understood here must therefore yield no guard.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from automation.conditions.nodes import PROPERTIES, Binary, ListOf, Literal, Logical, Path, Unary
from automation.conditions.reading import compile_path
from automation.conditions.values import Int

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from automation.conditions.closures import Closure
    from automation.conditions.condition import Condition
    from automation.conditions.nodes import Node
    from automation.conditions.subject import Subject

_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}


class Equals(msgspec.Struct, frozen=True):
    """A test: the value at the path equals the value of the key."""

    path: tuple[str, ...]
    key: Hashable


class Between(msgspec.Struct, frozen=True):
    """A test: the value at the path is a number from `low` to `high`, both included, also for `<` and `>`."""

    path: tuple[str, ...]
    low: float
    high: float


Test: TypeAlias = Equals | Between
Guard: TypeAlias = tuple[Test, ...]
"""Tests of which at least one passes whenever the condition holds. If there are none, the condition never holds."""


def guards(node: Node) -> Iterator[Guard]:
    """Yield the guards of a condition, each of which is sufficient for the index."""
    match node:
        case Logical(operator="&&", parts=parts):
            yield from _narrowed(guard for part in parts for guard in guards(part))
        case Logical(parts=parts):
            yield from _united(parts)
        case Literal(value=False):
            yield ()
        case Path(names=names):
            yield (Equals(names, _key(value=True)),)
        case Unary(operator="!", operand=Path(names=names)):
            yield (Equals(names, _key(value=False)),)
        case Binary(operator="in", left=Path(names=names), right=ListOf(items=items)):
            if all(isinstance(item, Literal) for item in items):
                yield tuple({Equals(names, _key(item.value)): None for item in items if isinstance(item, Literal)})
        case Binary(operator=symbol, left=Path(names=names), right=Literal(value=value)):
            yield from _comparison(names, symbol, value)
        case Binary(operator=symbol, left=Literal(value=value), right=Path(names=names)):
            yield from _comparison(names, _MIRRORED.get(symbol, ""), value)


def _comparison(names: tuple[str, ...], symbol: str, value: Any) -> Iterator[Guard]:
    if symbol == "==":
        yield (Equals(names, _key(value)),)
    elif type(value) in {Int, float} and symbol in {"<", "<="}:
        yield (Between(names, -inf, value),)
    elif type(value) in {Int, float} and symbol in {">", ">="}:
        yield (Between(names, value, inf),)


def _narrowed(parts: Iterable[Guard]) -> Iterator[Guard]:
    """Yield the guards of a conjunction, with one interval for all bounds of a path: `a > 1.0 && a < 5.0`."""
    intervals: dict[tuple[str, ...], Between] = {}
    for guard in parts:
        if len(guard) == 1 and isinstance(guard[0], Between):
            test = guard[0]
            other = intervals.get(test.path, test)
            intervals[test.path] = Between(test.path, max(test.low, other.low), min(test.high, other.high))
        else:
            yield guard
    for interval in intervals.values():
        yield (interval,) if interval.low <= interval.high else ()


def _united(parts: Iterable[Node]) -> Iterator[Guard]:
    """Yield the guard of a disjunction, the union of a guard of each part; none if a part has none.

    Of each part the narrowest by kind is chosen: the other conditions of the index are not known here.
    """
    chosen = [min(guards(part), key=_breadth, default=None) for part in parts]
    if None not in chosen:
        yield tuple({test: None for guard in chosen if guard is not None for test in guard})


def _breadth(guard: Guard) -> float:
    """Return a rank by kind: equality before intervals with two ends, and these before intervals with one."""
    return sum(
        1 if isinstance(test, Equals) else 1000 if inf not in {test.high, -test.low} else 10**6 for test in guard
    )


def _key(value: object) -> Hashable:
    """Return a key of a value that is equal only for values that are equal in CEL: for Python, True equals 1."""
    return (value,) if type(value) is bool else value


class ConditionIndex:
    """An index of a sequence of conditions; None is the condition that always holds."""

    def __init__(self, conditions: Sequence[Condition | None]) -> None:
        options = [list(guards(condition.expression.root)) if condition else [] for condition in conditions]
        selected = _conditions_selected(options)
        self._always: list[int] = []
        paths: dict[tuple[str, ...], _PathIndex] = {}
        for number, choices in enumerate(options):
            if not choices:
                self._always.append(number)
                continue
            for test in min(choices, key=lambda guard: sum(selected[test] for test in guard)):
                if test.path not in paths:
                    paths[test.path] = _PathIndex(test.path)
                paths[test.path].add(test, number)
        for path_index in paths.values():
            path_index.finish()
        # Paths into properties by their first name, so that a lookup reads only paths that the payload may have.
        self._by_name: dict[str, list[_PathIndex]] = defaultdict(list)
        for path, path_index in paths.items():
            if path[0] == PROPERTIES and len(path) > 1:
                self._by_name[path[1]].append(path_index)
        self._others = [path_index for path, path_index in paths.items() if path[0] != PROPERTIES]

    def candidates(self, subject: Subject) -> Sequence[int]:
        """Return, in ascending order, the indexes in the sequence of all conditions that may hold."""
        found: list[int] = []
        for name in self._by_name.keys() & subject.properties.keys():
            for path_index in self._by_name[name]:
                path_index.find(path_index.read(subject, []), found)
        for path_index in self._others:
            path_index.find(path_index.read(subject, []), found)
        if not found:
            return self._always
        return sorted({*found, *self._always})

    def rules_out(self, properties: Mapping[str, Any]) -> bool:
        """Return whether certainly no condition holds for an event with these properties, whatever else it has.

        Most events match nothing, and this takes a third of the time of making a subject and asking for candidates.
        """
        if self._always or self._others:
            return False
        for name in self._by_name.keys() & properties.keys():
            for path_index in self._by_name[name]:
                if path_index.nested or path_index.selects(properties[name]):
                    return False
        return True


def _conditions_selected(options: list[list[Guard]]) -> dict[Test, float]:
    """Return for each test an estimate of how many conditions are selected by a value that passes it.

    Equality selects the conditions with the same test. A number is assumed to be within half of the intervals of its
    path if the test has one end, and within an eighth if it has two.
    """
    tests = Counter(test for choices in options for guard in choices for test in guard)
    intervals = Counter(test.path for test in tests.elements() if isinstance(test, Between))
    return {
        test: count if isinstance(test, Equals) else intervals[test.path] / (2 if inf in {test.high, -test.low} else 8)
        for test, count in tests.items()
    }


class _PathIndex:
    """The tests of one path."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.read: Closure = compile_path(Path(start=0, end=0, names=names))
        self.nested = len(names) > 2
        self._equal: dict[Hashable, list[int]] = {}
        self._intervals: list[_Interval] = []
        self._tree: _Node | None = None

    def add(self, test: Test, number: int) -> None:
        """Add a test that selects a condition."""
        if isinstance(test, Equals):
            self._equal.setdefault(test.key, []).append(number)
        else:
            self._intervals.append((test.low, test.high, number))

    def finish(self) -> None:
        """Build the tree, after all tests were added."""
        self._tree = _Node.build(self._intervals)

    def selects(self, value: Any) -> bool:
        """Return whether a value at the path passes any test."""
        if type(value) is str:
            return value in self._equal
        found: list[int] = []
        self.find(value, found)
        return bool(found)

    def find(self, value: Any, found: list[int]) -> None:
        """Append the conditions whose test a value at the path passes to `found`."""
        kind = type(value)
        if kind is list or kind is dict:
            return
        found.extend(self._equal.get((value,) if kind is bool else value, ()))
        if kind is int or kind is float or kind is Int:
            node = self._tree
            while node is not None:
                node = node.stab(value, found)


_Interval: TypeAlias = tuple[float, float, int]


class _Node:
    """A node of a centred interval tree.

    It holds the intervals that contain its centre, sorted by both ends: a value below the centre is in those that begin
    at or before it, any other value in those that end at or after it. Intervals wholly on one side of the centre are in
    the subtree of that side.
    """

    def __init__(self, centre: float, here: list[_Interval]) -> None:
        by_low = sorted((low, number) for low, _, number in here)
        by_high = sorted((high, number) for _, high, number in here)
        self._centre = centre
        self._lows = [low for low, _ in by_low]
        self._by_low = [number for _, number in by_low]
        self._highs = [high for high, _ in by_high]
        self._by_high = [number for _, number in by_high]
        self.left: _Node | None = None
        self.right: _Node | None = None

    @classmethod
    def build(cls, intervals: list[_Interval]) -> _Node | None:
        """Return a tree of intervals. A subtree has at most half of the ends, so the depth is logarithmic."""
        if not intervals:
            return None
        ends = sorted(end for low, high, _ in intervals for end in (low, high) if abs(end) != inf)
        centre = ends[len(ends) // 2]
        node = cls(centre, [interval for interval in intervals if interval[0] <= centre <= interval[1]])
        node.left = cls.build([interval for interval in intervals if interval[1] < centre])
        node.right = cls.build([interval for interval in intervals if interval[0] > centre])
        return node

    def stab(self, value: float, found: list[int]) -> _Node | None:
        """Append the intervals of this node that contain the value to `found`. Return the subtree to search next."""
        if value < self._centre:
            found.extend(self._by_low[: bisect_right(self._lows, value)])
            return self.left
        found.extend(self._by_high[bisect_left(self._highs, value) :])
        return self.right
