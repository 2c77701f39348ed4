"""An index of conditions: it finds those that may hold for a subject without evaluating all of them.

A *test* compares the value at one path with constants. A *guard* of a condition is a set of tests of which at least one
passes whenever the condition holds:

    condition                                      guards
    properties.plan == "pro"                       {plan equals "pro"}
    properties.plan in ["pro", "team"]             {plan equals "pro", plan equals "team"}
    properties.total > 100.0                       {total between 100 and infinity}
    a && b                                         the guards of a, and those of b: any one of them would do
    a || b                                         a guard of a united with a guard of b
    properties.name.startsWith("x")                {name begins with "x"}
    properties.name.contains("x")                  none

For each condition the index uses one guard, the one that the fewest events are expected to pass, and files the
condition under each of its tests: equality in a dict, beginnings and ends of texts in a dict for each length, ranges of
numbers in an interval tree. A lookup reads each indexed path once and collects the conditions whose test passes, so it
costs about as much as there are candidates.

The invariant: every condition that holds is a candidate. A candidate may still be false, which evaluating it shows; a
condition without a guard is always a candidate. Whatever is not understood here must therefore yield no guard.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from automation.conditions.nodes import PROPERTIES, Binary, Call, ListOf, Literal, Logical, Path, Unary
from automation.conditions.reading import compile_path
from automation.conditions.values import Int

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from automation.conditions.closures import Closure
    from automation.conditions.condition import Condition
    from automation.conditions.nodes import Node
    from automation.conditions.subject import Subject

_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}

_NUMBERS: Final = frozenset({int, float, Int})

_UNNAMED: Final = 8
"""The number of values that a path is assumed to have, as frequent as those named by conditions."""


class Equals(msgspec.Struct, frozen=True):
    """A test: the value at the path equals the value of the key."""

    path: tuple[str, ...]
    key: Hashable


class Between(msgspec.Struct, frozen=True):
    """A test: the value at the path is a number from `low` to `high`, both included, also for `<` and `>`."""

    path: tuple[str, ...]
    low: float
    high: float


class Affix(msgspec.Struct, frozen=True):
    """A test: the value at the path is a text that begins with `text`, or ends with it if `at_end` is true."""

    path: tuple[str, ...]
    text: str
    at_end: bool


Test: TypeAlias = Equals | Between | Affix
Guard: TypeAlias = tuple[Test, ...]
"""Tests of which at least one passes whenever the condition holds. If there are none, the condition never holds."""


def guards(node: Node) -> Iterator[Guard]:  # noqa: C901 - a line for each shape
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
        case Call(function=".startsWith" | ".endsWith", arguments=(Path(names=names), Literal(value=str(text)))):
            yield (Affix(names, text, node.function == ".endsWith"),)
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
    """Return a rank by kind: equality and affixes, then intervals with two ends, then all that half of values pass."""
    return sum(map(_breadth_of, guard))


def _breadth_of(test: Test) -> float:
    if isinstance(test, Between):
        return 10**6 if inf in {test.high, -test.low} else 1_000
    return 10**6 if isinstance(test, Equals) and _is_boolean(test.key) else 1


def _key(value: object) -> Hashable:
    """Return a key of a value that is equal only for values that are equal in CEL: for Python, True equals 1."""
    return (value,) if type(value) is bool else value


def _is_boolean(key: Hashable) -> bool:
    return type(key) is tuple


class ConditionIndex:
    """An index of a sequence of conditions; None is the condition that always holds."""

    def __init__(self, conditions: Sequence[Condition | None]) -> None:
        options = [list(guards(condition.expression.root)) if condition else [] for condition in conditions]
        passing = _values_passing(options)
        self._always: list[int] = []
        paths: dict[tuple[str, ...], _PathIndex] = {}
        for number, choices in enumerate(options):
            if not choices:
                self._always.append(number)
                continue
            for test in min(choices, key=lambda guard: sum(passing[test] for test in guard)):
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
        self._selectors = {name: _selector_of(path_indexes) for name, path_indexes in self._by_name.items()}
        self._others = [path_index for path, path_index in paths.items() if path[0] != PROPERTIES]
        self._unpredictable = bool(self._always or self._others)

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
        """Return True only if no condition can hold for an event with these properties.

        Most events match nothing, and this takes a third of the time of making a subject and asking for candidates.
        """
        if self._unpredictable:
            return False
        selectors = self._selectors
        # The shorter of the two is walked; making the set of common names takes longer.
        names, others = (selectors, properties) if len(selectors) < len(properties) else (properties, selectors)
        for name in names:  # noqa: SIM110 - a generator takes longer than what it asks
            if name in others and selectors[name](properties[name]):
                return False
        return True


def _values_passing(options: list[list[Guard]]) -> dict[Test, float]:
    """Return for each test an estimate of the share of values that pass it.

    Half of the values pass a comparison with a Boolean, a quarter one with a bound, an eighth one with two. The other
    tests name a value or a part of one, which is taken to be the more frequent the more conditions name it.
    """
    tests = Counter(test for choices in options for guard in choices for test in guard)
    named = Counter(test.path for test in tests.elements() if not isinstance(test, Between))
    return {test: _share_of(test, count, named[test.path]) for test, count in tests.items()}


def _share_of(test: Test, count: int, named: int) -> float:
    if isinstance(test, Between):
        return 1 / 4 if inf in {test.high, -test.low} else 1 / 8
    if isinstance(test, Equals) and _is_boolean(test.key):
        return 1 / 2
    return count / (named + _UNNAMED)


class _PathIndex:
    """The tests of one path."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.read: Closure = compile_path(Path(start=0, end=0, names=names))
        self._nested = len(names) > 2
        self._equal: dict[Hashable, list[int]] = {}
        self._affixes: dict[tuple[int, bool], dict[str, list[int]]] = {}
        self._intervals: list[_Interval] = []
        self._tree: _Node | None = None
        self._low, self._high = inf, -inf

    def add(self, test: Test, number: int) -> None:
        """Add a test that selects a condition."""
        if isinstance(test, Equals):
            self._equal.setdefault(test.key, []).append(number)
        elif isinstance(test, Affix):
            self._affixes.setdefault((len(test.text), test.at_end), {}).setdefault(test.text, []).append(number)
        else:
            self._intervals.append((test.low, test.high, number))
            self._low, self._high = min(self._low, test.low), max(self._high, test.high)

    def finish(self) -> None:
        """Build the tree, after all tests were added."""
        self._tree = _Node.build(self._intervals)

    @property
    def selector(self) -> Callable[[Any], bool]:
        """A function that returns whether a property passes any test of the path, or may have parts that do.

        Most paths are compared with texts alone, or with numbers alone that few values lie between.
        """
        if self._nested:
            return lambda _: True
        if self._affixes:
            return self._selects
        equal, low, high, selects = self._equal, self._low, self._high, self._selects
        if self._intervals and not equal:
            return lambda value: type(value) in _NUMBERS and low <= value <= high and selects(value)
        if not self._intervals and all(type(key) is str for key in equal):
            return lambda value: type(value) is str and value in equal
        return selects

    def _selects(self, value: Any) -> bool:
        found: list[int] = []
        self.find(value, found)
        return bool(found)

    def find(self, value: Any, found: list[int]) -> None:
        """Append the conditions whose test a value at the path passes to `found`."""
        kind = type(value)
        if kind is list or kind is dict:
            return
        found.extend(self._equal.get((value,) if kind is bool else value, ()))
        if kind is str:
            for numbers in self._with_affix(value):
                found.extend(numbers)
        elif kind in _NUMBERS:
            node = self._tree
            while node is not None:
                node = node.stab(value, found)

    def _with_affix(self, text: str) -> Iterator[Sequence[int]]:
        """Yield the conditions whose affix a text has, for each length of an affix."""
        for (length, at_end), affixes in self._affixes.items():
            part = text[max(0, len(text) - length) :] if at_end else text[:length]
            if numbers := affixes.get(part):
                yield numbers


def _selector_of(path_indexes: Sequence[_PathIndex]) -> Callable[[Any], bool]:
    """Return the function that returns whether a property passes any test of the paths that begin with its name."""
    first, *others = [path_index.selector for path_index in path_indexes]
    return (lambda value: first(value) or any(selects(value) for selects in others)) if others else first


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
