from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from automation.conditions.condition import Condition
from automation.conditions.errors import ConditionInvalid
from automation.conditions.subject import Subject
from automation.conditions.tracing import Clause, Shown
from automation.conditions.values import Failure, Verdict
from tests.support.conditions import conditions, contacts, payloads
from tests.support.laws import examples

TRUE, FALSE, MISSING, ERROR, NOT_EVALUATED = Verdict
NOON = 1_780_315_200_000_000


def trace(text: str, properties: dict[str, Any]) -> list[Clause]:
    return Condition(text).trace(Subject(properties, occurred_at=NOON))


def verdicts(text: str, properties: dict[str, Any]) -> list[tuple[int, str, Verdict]]:
    return [(each.depth, each.expression, each.verdict) for each in trace(text, properties)]


def test_a_trace_is_the_condition_and_then_its_parts() -> None:
    text = "properties.a > 1\n  && (properties.b == 'x' || !properties.c)"
    assert verdicts(text, {"a": 2, "b": "y", "c": False}) == [
        (0, text, TRUE),
        (1, "properties.a > 1", TRUE),
        (1, "(properties.b == 'x' || !properties.c)", TRUE),
        (2, "properties.b == 'x'", FALSE),
        (2, "!properties.c", TRUE),
        (3, "properties.c", FALSE),
    ]
    assert [(each.line, each.column) for each in trace(text, {})] == [(1, 1), (1, 1), (2, 6), (2, 7), (2, 30), (2, 31)]


def test_clauses_after_the_decision_are_not_evaluated() -> None:
    text = "properties.a == 1 && (properties.b || properties.c)"
    (_, _, either, *inside) = trace(text, {"a": 2, "b": True})
    assert [each.verdict for each in (either, *inside)] == [NOT_EVALUATED] * 3
    assert [each.depth for each in (either, *inside)] == [1, 2, 2]
    nested = "properties.a ? !properties.b : (properties.b && properties.c)"
    for chosen in (True, False, None):
        assert [depth for depth, *_ in verdicts(nested, {"a": chosen, "b": True, "c": True})] == [0, 1, 1, 2, 1, 2, 2]
    assert {each.actual for each in inside} == {None}
    assert [
        verdict for *_, verdict in verdicts("properties.a ? properties.b : properties.c", {"a": True, "b": False})
    ] == [
        FALSE,
        TRUE,
        FALSE,
        NOT_EVALUATED,
    ]


def test_an_absorbed_failure_is_seen() -> None:
    assert [verdict for *_, verdict in verdicts("properties.a > 1 || properties.b > 1 || true", {"b": "x"})] == [
        TRUE,
        MISSING,
        ERROR,
        TRUE,
    ]


def test_a_clause_shows_its_path_and_its_operand() -> None:
    (clause,) = trace("100.5 <= properties.a", {"a": 5})
    assert (clause.operator, clause.path) == ("<=", "properties.a")
    assert (clause.actual, clause.operand) == (Shown(5), Shown(100.5))
    (clause,) = trace("properties['odd name'] in ['x', 1]", {"odd name": "x"})
    assert (clause.operator, clause.path, clause.operand) == ("in", 'properties["odd name"]', Shown(["x", 1]))
    (clause,) = trace("properties.a.startsWith('x')", {"a": "y"})
    assert (clause.operator, clause.actual, clause.operand) == ("startsWith", Shown("y"), Shown("x"))
    (clause,) = trace("event.occurred_at - timestamp(properties.a) > duration('90s')", {"a": "2026-06-01T11:00:00Z"})
    assert (clause.path, clause.actual, clause.operand) == (
        "event.occurred_at",
        Shown("2026-06-01T12:00:00.000Z"),
        Shown("90s"),
    )
    (clause,) = trace("properties.a == 1", {})
    assert (clause.verdict, clause.actual, clause.message) == (MISSING, None, "properties.a is missing")
    (clause,) = trace("properties.l.exists(x, x > 1)", {"l": [1, 2]})
    assert (clause.operator, clause.path, clause.actual) == ("exists", "properties.l", Shown([1, 2]))


def test_a_large_value_is_cut() -> None:
    (clause,) = trace("properties.a == 'x'", {"a": ["y" * 2000]})
    assert clause.actual == Shown('["' + "y" * 1022, truncated=True)
    assert clause.operand == Shown("x")
    (whole,), (cut,) = (trace("properties.a == 'x'", {"a": ["y" * length]}) for length in (1020, 1021))
    assert whole.actual == Shown(["y" * 1020])
    assert cut.actual == Shown('["' + "y" * 1021 + '"', truncated=True)


@settings(max_examples=examples(400))
@given(conditions(), payloads, contacts)
def test_a_trace_has_the_verdict_of_the_condition(
    text: str, properties: dict[str, Any], contact: dict[str, Any] | None
) -> None:
    try:
        condition = Condition(text)
    except ConditionInvalid:
        return
    subject = Subject(properties, "abc", "e", 3, NOON, NOON, "c", "ada@example.com", contact)
    outcome = condition.evaluate(subject)
    first = condition.trace(subject)[0]
    if isinstance(outcome, Failure):
        assert (first.verdict, first.message) == (outcome.verdict, outcome.message)
    else:
        assert first.verdict is (TRUE if outcome else FALSE)
