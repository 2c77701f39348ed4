from __future__ import annotations

import os
from copy import copy
from functools import cache
from itertools import pairwise
from math import inf, nextafter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automation.conditions.condition import Condition
from automation.conditions.errors import ConditionInvalid
from automation.conditions.index import ConditionIndex
from automation.conditions.nodes import Binary, Literal, Logical
from automation.conditions.subject import Subject
from automation.conditions.values import Int
from tests.support.conditions import conditions, contacts, payloads

EXAMPLES = int(os.environ.get("SIGNALBOX_INDEX_EXAMPLES", "80"))


def compiled(texts: list[str]) -> list[Condition | None]:
    """Return conditions without those that cannot be saved; every seventh is None."""
    made: list[Condition | None] = []
    for text in texts:
        try:
            made.append(Condition(text) if len(made) % 7 != 6 else None)
        except ConditionInvalid:
            continue
    return made


def subject(properties: dict[str, Any], contact: dict[str, Any] | None = None) -> Subject:
    about = {} if contact is None else {"contact_id": "c", "email": "ada@example.com", "contact_properties": contact}
    return Subject(properties, "abc", "e", 3, 0, 0, **about)  # type: ignore[arg-type]  # a dict of kinds


@settings(max_examples=EXAMPLES)
@given(st.lists(conditions(("guard", "guard", "guard", "bool")), max_size=25), st.lists(payloads, max_size=4), contacts)
def test_every_condition_that_holds_is_a_candidate(
    texts: list[str], events: list[dict[str, Any]], contact: dict[str, Any] | None
) -> None:
    all_of_them = compiled(texts)
    index = ConditionIndex(all_of_them)
    for properties in events:
        given_to = subject(properties, contact)
        naive = [number for number, each in enumerate(all_of_them) if each is None or each.matches(given_to)]
        candidates = index.candidates(given_to)
        assert candidates == sorted(set(candidates))
        indexed = [number for number in candidates if (each := all_of_them[number]) is None or each.matches(given_to)]
        assert indexed == naive
        if index.rules_out(properties):
            assert candidates == []


@pytest.mark.parametrize("value", ["x", 1, 2.5, True, None, [1], {"b": 1}])
def test_an_event_is_ruled_out_by_its_properties_alone(value: Any) -> None:
    texts = ['properties.a == "x"', "properties.a > 2.0", "properties.a == true", "properties.c in [1]"]
    for some in (texts, texts[:1], texts[2:]):
        index = ConditionIndex([Condition(text) for text in some])
        assert index.rules_out({"a": value, "d": 1}) is (index.candidates(subject({"a": value, "d": 1})) == [])
    unknown = ConditionIndex([Condition(text) for text in (*texts, 'contact.email == "ada@example.com"')])
    assert not unknown.rules_out({"a": value})
    nested = ConditionIndex([Condition("properties.a.b == 1")])
    assert not nested.rules_out({"a": value})
    assert nested.rules_out({"b": value})


BOUNDS: dict[str, float] = {
    **{str(number): number for number in (0, 1, 2, 3, 5, 10, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1)},
    **{str(number): number for number in (0.0, 0.1, 1.0, 2.5, 5.0, 10.0, 2.0**53, 2.0**63, 1.7976931348623157e308)},
    "-1": -1,
    "-5.0": -5.0,
    "-9223372036854775808": -(2**63),
    "5e-324": 5e-324,
}
ABOUT = ("properties.a", "properties.b.c", "event.revision", "contact.properties.tier")


def around(bound: float) -> list[float]:
    """Return values around a bound: the bound as an int and as a double, and the next doubles and ints."""
    twins = {"int": int(bound), "double": float(bound), "above": int(bound) + 1, "below": int(bound) - 1}
    return [bound, *twins.values(), *(nextafter(bound, end) for end in (inf, -inf) if abs(nextafter(bound, end)) < inf)]


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    path, bound = draw(st.sampled_from(ABOUT)), draw(st.sampled_from(sorted(BOUNDS)))
    symbol = draw(st.sampled_from(("<", "<=", ">", ">=", "==")))
    return draw(st.sampled_from((f"{path} {symbol} {bound}", f"{bound} {symbol} {path}")))


@st.composite
def between(draw: st.DrawFn) -> str:
    """Return an interval of one path, or another combination of two comparisons."""
    path, low, high = draw(st.sampled_from(ABOUT)), *draw(st.tuples(*[st.sampled_from(sorted(BOUNDS))] * 2))
    below, above = draw(st.sampled_from(("<", "<="))), draw(st.sampled_from((">", ">=")))
    joined = draw(st.sampled_from((" && ", " || "))).join(draw(st.tuples(comparisons(), comparisons())))
    return draw(st.sampled_from((f"{path} {above} {low} && {path} {below} {high}", joined)))


condition = cache(Condition)
at_a_bound = st.sampled_from(sorted(BOUNDS)).flatmap(lambda text: st.sampled_from(around(BOUNDS[text])))


@settings(max_examples=EXAMPLES // 2)
@given(st.lists(comparisons() | between(), min_size=1, max_size=12), st.lists(st.tuples(*[at_a_bound] * 4), max_size=6))
def test_no_value_at_a_bound_is_lost(texts: list[str], values: list[tuple[float, ...]]) -> None:
    all_of_them = [condition(text) for text in texts]
    index = ConditionIndex(all_of_them)
    for a, b, revision, tier in values:
        properties, tiers = {"a": a, "b": {"c": b}}, {"tier": tier}
        given_to = Subject(properties, "abc", "e", int(revision), 0, 0, "c", "ada@example.com", tiers)
        naive = [number for number, each in enumerate(all_of_them) if each.matches(given_to)]
        assert set(naive) <= set(index.candidates(given_to))


@pytest.mark.parametrize("bound", BOUNDS)
def test_an_interval_contains_its_ends_and_nothing_beside_them(bound: str) -> None:
    texts = [
        f"properties.a >= {bound} && properties.a <= {bound}",
        f"properties.a >= {bound}",
        f"properties.a <= {bound}",
    ]
    for value in around(BOUNDS[bound]):
        holds = (value == BOUNDS[bound], value >= BOUNDS[bound], value <= BOUNDS[bound])
        assert candidates(texts, {"a": value}) == [number for number in range(3) if holds[number]], value


def test_the_revision_at_its_bound_is_a_candidate() -> None:
    texts = ["event.revision >= 3", "event.revision <= 3", "event.revision >= 4", "event.revision <= 2"]
    assert ConditionIndex([Condition(text) for text in texts]).candidates(subject({})) == [0, 1]


def test_candidates_are_the_intervals_that_contain_the_value() -> None:
    ends = [(low, low + width) for low in range(-40, 40, 3) for width in (0, 1, 4, 15, 200)]
    texts = [f"properties.a >= {low} && properties.a <= {high}" for low, high in ends]
    index = ConditionIndex([Condition(text) for text in texts])
    values = sorted({value for end in ends for number in end for value in around(number)})
    for value in [*values, *((low + high) / 2 for low, high in pairwise(values))]:
        inside = [number for number, (low, high) in enumerate(ends) if low <= value <= high]
        assert index.candidates(subject({"a": value})) == inside, value


def test_of_alternatives_the_narrowest_tests_are_kept() -> None:
    either = "properties.b > 0 && properties.a == 1 || properties.a == 2"
    assert candidates([either], {"a": 3, "b": 5}) == []
    ranges = "properties.b > 0 && properties.a > 1 && properties.a < 3 || properties.a == 9"
    assert candidates([ranges], {"a": 4, "b": 5}) == []
    assert candidates([ranges], {"a": 2, "b": 0}) == [0]
    assert candidates(["properties.b > 0 && properties.a < 3 && properties.a > 1 || false"], {"a": 4, "b": 5}) == []


def candidates(texts: list[str], properties: dict[str, Any]) -> list[int]:
    return list(ConditionIndex([Condition(text) for text in texts]).candidates(subject(properties)))


@pytest.mark.parametrize(
    ("text", "passing", "failing"),
    [
        ("properties.a == 1", 1.0, 2),
        ("1.0 == properties.a", 1, True),
        ("properties.a == true", True, 1),
        ("properties.a", True, False),
        ("!properties.a", False, 0),
        ("properties.a == null", None, 0),
        ("properties.a in ['x', 'y']", "y", "z"),
        ("properties.a > 5", 6, 4),
        ("5.5 >= properties.a", 5.5, 6),
        ("properties.a > 1 && properties.a < 3", 2, 4),
        ("properties.a == 'x' || properties.a > 3", 4, 2),
        ("properties.a == 'x' && size(properties.b) > 2", "x", "y"),
        ("properties.b || properties.a == 1", 1, 2),
        ("properties.a.startsWith('ab')", "abc", "ba"),
        ("properties.a.startsWith('')", "", 1),
        ("properties.a.endsWith('ab')", "cab", "b"),
        ('properties["a"] == 1', 1, "1"),
    ],
)
def test_a_comparison_with_a_constant_selects(text: str, passing: Any, failing: Any) -> None:
    assert candidates([text], {"a": passing}) == [0]
    assert candidates([text], {"a": failing}) == []
    assert candidates([text], {}) == []


@pytest.mark.parametrize(
    "text",
    ["properties.a != 1", "size(properties.a) == 1", "properties.a == properties.b", "true", "properties.a > 'x'"],
)
def test_a_condition_without_a_comparison_of_a_path_and_a_constant_is_always_a_candidate(text: str) -> None:
    assert candidates([text], {"a": 1}) == candidates([text], {}) == [0]


@pytest.mark.parametrize("text", ["false", "properties.a in []", "properties.a > 3 && properties.a < 2"])
def test_a_condition_that_never_holds_is_never_a_candidate(text: str) -> None:
    assert candidates([text], {"a": 2.5}) == []


def test_a_test_that_nearly_all_conditions_share_selects_none_of_them() -> None:
    texts = [f'properties.currency == "EUR" && properties.sku == "S{number}"' for number in range(1000)]
    assert candidates(texts, {"currency": "EUR", "sku": "S7"}) == [7]
    narrow = [
        f'properties.currency == "EUR" && properties.n > {number} && properties.n < {number + 2}'
        for number in range(1000)
    ]
    assert candidates(narrow, {"currency": "EUR", "n": 7.5}) == [6, 7]


def within(low: int, high: int) -> Condition:
    """Return the condition that a total is at least `low` and below `high`, without parsing it again for each pair."""
    made = copy(condition("properties.total >= 1 && properties.total < 2"))
    root = made.expression.root
    assert isinstance(root, Logical)
    parts = [
        msgspec.structs.replace(part, right=msgspec.structs.replace(part.right, value=Int(bound)))
        for part, bound in zip(root.parts, (low, high), strict=True)
        if isinstance(part, Binary) and isinstance(part.right, Literal)
    ]
    made.expression = msgspec.structs.replace(made.expression, root=msgspec.structs.replace(root, parts=tuple(parts)))
    return made


def test_a_condition_that_is_made_of_another_is_the_one_that_is_parsed() -> None:
    assert within(5, 7).expression.root == Condition("properties.total >= 5 && properties.total < 7").expression.root


def test_ten_thousand_conditions_have_as_many_candidates_as_match() -> None:
    index = ConditionIndex([within(number, number + 10) for number in range(0, 50_000, 5)])
    assert index.candidates(subject({"total": 25_003})) == [4999, 5000]
    assert index.candidates(subject({"total": "25003"})) == []
    assert index.candidates(subject({"total": [25_003]})) == []
