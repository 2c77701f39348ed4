"""Which of many conditions may hold for a subject, found without evaluating them.

Of each condition one necessary test is kept: a comparison of a path with constants that must hold if the condition
does. Equality is looked up by hash and ranges of numbers are stabbed in an interval tree, so a look-up costs about as
much as there are candidates. A condition without such a test is always a candidate.
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
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from automation.conditions.closures import Closure
    from automation.conditions.condition import Condition
    from automation.conditions.nodes import Node
    from automation.conditions.subject import Subject

_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}


class Equals(msgspec.Struct, frozen=True):
    """The value at the path equals the one that the key stands for."""

    path: tuple[str, ...]
    key: Hashable


class Between(msgspec.Struct, frozen=True):
    """The value at the path is a number between the two, both included: wide enough also for `<` and `>`."""

    path: tuple[str, ...]
    low: float
    high: float


Test: TypeAlias = Equals | Between
Guard: TypeAlias = tuple[Test, ...]
"""One of these tests holds if the condition does; none of them ever if there are none."""


def guards(node: Node) -> Iterator[Guard]:
    """Find what must hold if a condition does: each guard alone is necessary."""
    match node:
        case Logical(operator="&&", parts=parts):
            found = [guard for part in parts for guard in guards(part)]
            yield from _narrowed(found)
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


def _narrowed(found: list[Guard]) -> Iterator[Guard]:
    """Make one interval of all that bound the same path."""
    intervals: dict[tuple[str, ...], Between] = {}
    for guard in found:
        if len(guard) == 1 and isinstance(guard[0], Between):
            test = guard[0]
            other = intervals.get(test.path, test)
            intervals[test.path] = Between(test.path, max(test.low, other.low), min(test.high, other.high))
        else:
            yield guard
    for interval in intervals.values():
        yield (interval,) if interval.low <= interval.high else ()


def _united(parts: Iterable[Node]) -> Iterator[Guard]:
    """Unite the guards of alternatives: each needs one, and the narrowest by kind is taken."""
    chosen = [min(guards(part), key=_breadth, default=None) for part in parts]
    if None not in chosen:
        yield tuple({test: None for guard in chosen if guard is not None for test in guard})


def _breadth(guard: Guard) -> float:
    """Rank by kind alone: equality before intervals with two ends before those with one."""
    return sum(
        1 if isinstance(test, Equals) else 1000 if inf not in {test.high, -test.low} else 10**6 for test in guard
    )


def _key(value: object) -> Hashable:
    """Make a key that is equal where CEL's values are: Python takes True for 1."""
    return (value,) if type(value) is bool else value


class ConditionIndex:
    """The conditions of the automations of one event name, by their place in the sequence; None always holds."""

    def __init__(self, conditions: Sequence[Condition | None]) -> None:
        options = [list(guards(each.expression.root)) if each else [] for each in conditions]
        crowd = _crowd(options)
        self._always: list[int] = []
        paths: dict[tuple[str, ...], _PathIndex] = {}
        for number, found in enumerate(options):
            if not found:
                self._always.append(number)
                continue
            for test in min(found, key=lambda guard: sum(crowd[test] for test in guard)):
                if test.path not in paths:
                    paths[test.path] = _PathIndex(test.path)
                paths[test.path].add(test, number)
        for each in paths.values():
            each.finish()
        # Paths into properties by their first name: only those that the payload has are looked at.
        self._by_name: dict[str, list[_PathIndex]] = defaultdict(list)
        for path, each in paths.items():
            if path[0] == PROPERTIES and len(path) > 1:
                self._by_name[path[1]].append(each)
        self._others = [each for path, each in paths.items() if path[0] != PROPERTIES]

    def candidates(self, subject: Subject) -> Sequence[int]:
        """Return, in ascending order, the places of all conditions that may hold; the others do not."""
        found: list[int] = []
        for name in self._by_name.keys() & subject.properties.keys():
            for each in self._by_name[name]:
                each.find(subject, found)
        for each in self._others:
            each.find(subject, found)
        if not found:
            return self._always
        return sorted({*found, *self._always})


def _crowd(options: list[list[Guard]]) -> dict[Test, float]:
    """Estimate for each test how many conditions a value would select that passes it."""
    tests = Counter(test for found in options for guard in found for test in guard)
    intervals = Counter(test.path for test in tests.elements() if isinstance(test, Between))
    return {
        test: count if isinstance(test, Equals) else intervals[test.path] / (2 if inf in {test.high, -test.low} else 8)
        for test, count in tests.items()
    }


class _PathIndex:
    """The tests of one path."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._read: Closure = compile_path(Path(start=0, end=0, names=names))
        self._equal: dict[Hashable, list[int]] = {}
        self._intervals: list[_Interval] = []
        self._tree: _Node | None = None

    def add(self, test: Test, number: int) -> None:
        """Note the test that selects a condition."""
        if isinstance(test, Equals):
            self._equal.setdefault(test.key, []).append(number)
        else:
            self._intervals.append((test.low, test.high, number))

    def finish(self) -> None:
        """Build the tree when all tests are noted."""
        self._tree = _Node.build(self._intervals)

    def find(self, subject: Subject, found: list[int]) -> None:
        """Add the conditions whose test the subject passes."""
        value = self._read(subject, [])
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
    """A centred interval tree: here the intervals that contain the centre, below those wholly on one side of it."""

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
        """Build a tree; each level has at most half of the ends of the one above."""
        if not intervals:
            return None
        ends = sorted(end for low, high, _ in intervals for end in (low, high) if abs(end) != inf)
        centre = ends[len(ends) // 2]
        node = cls(centre, [each for each in intervals if each[0] <= centre <= each[1]])
        node.left = cls.build([each for each in intervals if each[1] < centre])
        node.right = cls.build([each for each in intervals if each[0] > centre])
        return node

    def stab(self, value: float, found: list[int]) -> _Node | None:
        """Add the intervals here that contain the value, and say where to look next."""
        if value < self._centre:
            found.extend(self._by_low[: bisect_right(self._lows, value)])
            return self.left
        found.extend(self._by_high[bisect_left(self._highs, value) :])
        return self.right
