from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automation.conditions.condition import Condition
from automation.conditions.index import ConditionIndex
from automation.conditions.subject import Subject
from automation.errors import ConditionInvalid
from tests.support.conditions import conditions, contacts, payloads


def compiled(texts: list[str]) -> list[Condition | None]:
    """Leave out the few that cannot be saved; every seventh automation has no condition."""
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


@settings(max_examples=400)
@given(st.lists(conditions(("guard", "guard", "guard", "bool")), max_size=25), st.lists(payloads, max_size=4), contacts)
def test_what_the_index_leaves_out_does_not_hold(
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
def test_what_compares_no_path_with_a_constant_is_always_a_candidate(text: str) -> None:
    assert candidates([text], {"a": 1}) == candidates([text], {}) == [0]


@pytest.mark.parametrize("text", ["false", "properties.a in []", "properties.a > 3 && properties.a < 2"])
def test_what_never_holds_is_never_a_candidate(text: str) -> None:
    assert candidates([text], {"a": 2.5}) == []


def test_what_nearly_all_ask_for_selects_none_of_them() -> None:
    texts = [f'properties.currency == "EUR" && properties.sku == "S{number}"' for number in range(1000)]
    assert candidates(texts, {"currency": "EUR", "sku": "S7"}) == [7]
    narrow = [
        f'properties.currency == "EUR" && properties.n > {number} && properties.n < {number + 2}'
        for number in range(1000)
    ]
    assert candidates(narrow, {"currency": "EUR", "n": 7.5}) == [6, 7]


def test_ten_thousand_conditions_have_as_many_candidates_as_match() -> None:
    texts = [f"properties.total >= {number} && properties.total < {number + 10}" for number in range(0, 50_000, 5)]
    index = ConditionIndex([Condition(text) for text in texts])
    assert index.candidates(subject({"total": 25_003})) == [4999, 5000]
    assert index.candidates(subject({"total": "25003"})) == []
    assert index.candidates(subject({"total": [25_003]})) == []
