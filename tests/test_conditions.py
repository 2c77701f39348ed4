from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automation.conditions.checking import _Checker, check
from automation.conditions.compiling import compile_node, new_frame
from automation.conditions.condition import Condition
from automation.conditions.errors import ConditionInvalid
from automation.conditions.parsing import MAX_LENGTH, parse
from automation.conditions.subject import Subject
from automation.conditions.value_types import Kind
from automation.conditions.values import Duration, Failure, Int, Timestamp, Verdict
from registry.definitions.schema import Property, PropertyType, Schema
from registry.times.timestamps import parse_rfc3339
from tests.support.conditions import conditions, contacts, payloads
from tests.support.laws import examples

if TYPE_CHECKING:
    from automation.conditions.errors import ConditionProblem

STRING, NUMBER, BOOLEAN, DATE, OBJECT, ARRAY, ANY = PropertyType
NULL, BOOL, INTEGER, DOUBLE, TEXT, LIST, MAP, TIMESTAMP, DURATION = Kind

ITEM = (Property("sku", STRING), Property("price", NUMBER), Property("weight", NUMBER))
PURCHASE = Schema(
    (
        Property("order_total", NUMBER),
        Property("currency", STRING),
        Property("is_first_purchase", BOOLEAN),
        Property("coupon", STRING),
        Property("voucher", STRING),
        Property("odd name", STRING),
        Property("paid_at", DATE),
        Property("items", ARRAY, item_type=OBJECT, properties=ITEM),
    )
)


CONDITION_SEEDS = (Path(__file__).parent / "fuzz_seeds" / "conditions.txt").read_text().splitlines()


def condition_errors(text: str, schema: Schema | None = None) -> list[ConditionProblem]:
    try:
        check(parse(text), schema)
    except ConditionInvalid as refused:
        return list(refused.errors)
    return []


def outcome(text: str, properties: dict[str, Any]) -> bool | Failure:
    return Condition(text).evaluate(Subject(properties))


# The page

PAGE = Path(__file__).parents[1] / "docs" / "conditions.md"


def page() -> str:
    return PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""


def page_examples() -> list[tuple[str, str]]:
    blocks = re.findall(r"```cel\n(.*?)```", page(), re.DOTALL)
    return [(line, line.rpartition("// ")[2].strip()) for block in blocks for line in block.splitlines()]


@pytest.mark.checkout
@pytest.mark.parametrize(("text", "verdict_name"), page_examples())
def test_every_example_of_the_page_holds(text: str, verdict_name: str) -> None:
    (sample,) = re.findall(r"```json\n(.*?)```", page(), re.DOTALL)
    event = json.loads(sample)
    if found := condition_errors(text, PURCHASE):
        assert [each.reason for each in found] == [verdict_name]
        return
    contact, at = event["contact"], parse_rfc3339("2026-06-01T15:00:00Z")
    subject = Subject(event["properties"], "purchase", "e", 1, at, at, "c", contact["email"], contact["properties"])
    came_to = Condition(text).evaluate(subject)
    verdict = came_to.verdict if isinstance(came_to, Failure) else Verdict.TRUE if came_to else Verdict.FALSE
    assert verdict.name == verdict_name


# What cannot be read


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("properties.a >", 1, 15, "SYNTAX_ERROR"),
        ("properties.a\n  = 1", 2, 3, "SYNTAX_ERROR"),
        ("properties.a and true", 1, 14, "SYNTAX_ERROR"),
        ("'日本' == 'x", 1, 9, "SYNTAX_ERROR"),
        (r"properties.a == '\q'", 1, 17, "SYNTAX_ERROR"),
        (r"properties.a == '\ud800'", 1, 17, "SYNTAX_ERROR"),
        (r"properties.a == '\U00110000'", 1, 17, "SYNTAX_ERROR"),
        ("properties.a == 9223372036854775808", 1, 17, "SYNTAX_ERROR"),
        (f"properties.a == {'9' * 8000}", 1, 17, "SYNTAX_ERROR"),
        ("properties.a == 1e999", 1, 17, "SYNTAX_ERROR"),
        ("1u == 1", 1, 2, "SYNTAX_ERROR"),
        ("{'a': 1} == 1", 1, 1, "SYNTAX_ERROR"),
        ("properties.in == 1", 1, 12, "SYNTAX_ERROR"),
        ("properties.a.exists(if, true)", 1, 1, "SYNTAX_ERROR"),
        ("price > 1", 1, 1, "UNKNOWN_NAME"),
        ("true || event", 1, 9, "UNKNOWN_NAME"),
        ("properties.a.exists(x, true) && x", 1, 33, "UNKNOWN_NAME"),
        ("event.nam == 'x'", 1, 1, "UNKNOWN_PROPERTY"),
        ("contact.id.x", 1, 1, "TYPE_MISMATCH"),
        ("upper(properties.a)", 1, 1, "UNKNOWN_FUNCTION"),
        ("properties.a.startswith('x')", 1, 1, "UNKNOWN_FUNCTION"),
        ("size(properties.a, 1) == 1", 1, 1, "WRONG_ARGUMENTS"),
        ("has(properties['a'])", 1, 1, "WRONG_ARGUMENTS"),
        ("properties.a.exists(properties, true)", 1, 14, "WRONG_ARGUMENTS"),
        ("properties.a.all(x)", 1, 14, "WRONG_ARGUMENTS"),
        ("properties.a.matches('(')", 1, 22, "INVALID_REGEX"),
        ("properties.a.matches('(a{1000}){1000}')", 1, 22, "INVALID_REGEX"),
        (r"properties.a.matches('(\\pL{100}){9}')", 1, 22, "INVALID_REGEX"),
        (r"properties.a.matches('\\pL{10}')", 1, 22, "INVALID_REGEX"),
        ("properties.a.matches(properties.b)", 1, 22, "INVALID_REGEX"),
        ("properties.a in [" + "1," * 1001 + "]", 1, 17, "TOO_MANY_ELEMENTS"),
    ],
)
def test_an_error_has_its_line_and_column(text: str, line: int, column: int, reason: str) -> None:
    (error,) = condition_errors(text)
    assert (error.line, error.column, error.reason) == (line, column, reason)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("properties.a = 1", "= is not expected here; equality is written =="),
        ("properties.a === 1", "= is not expected here; equality is written =="),
        ("properties.a <> 1", "> is not expected here; inequality is written !="),
        ("properties.a<>1", "> is not expected here; inequality is written !="),
        ("properties.a < > 1", "> is not expected here; inequality is written !="),
        ("properties.a AND true", "AND is not expected here; and is written &&"),
        ("true | false", "| is not expected here; or is written ||"),
        ("not properties.a", "properties is not expected here; not is written !"),
        ("properties.a not in [1]", "not is not expected here; not is written !"),
        ("knot properties.a", "properties is not expected here"),
        ("properties.a.startWith('x')", "There is no method startWith; did you mean startsWith?"),
        ("properties.a.exist(x, true)", "There is no method exist; did you mean exists?"),
        ("string(properties.a)", "There is no function string; there are size, timestamp, duration, has"),
    ],
)
def test_an_error_says_what_would_be_right(text: str, hint: str) -> None:
    assert condition_errors(text)[0].message == hint


def test_a_refused_pattern_writes_nothing_to_the_log_of_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    condition_errors("properties.a.matches('(')")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("longest", "longer", "reason"),
    [
        ("!" * 31 + "true", "!" * 32 + "true", "TOO_DEEP"),
        ("(" * 31 + "true" + ")" * 31, "(" * 32 + "true" + ")" * 32, "TOO_DEEP"),
        ("properties" + ".a" * 31, "properties" + ".a" * 32, "TOO_DEEP"),
        ("'" + "x" * 8184 + "' == ''", "'" + "x" * 8185 + "' == ''", "TOO_LONG"),
        ("1 in [" + ",".join("1" * 1000) + "]", "1 in [" + ",".join("1" * 1001) + "]", "TOO_MANY_ELEMENTS"),
        ("1 < 9223372036854775807", "1 < 9223372036854775808", "SYNTAX_ERROR"),
        ("1 > -9223372036854775808", "1 > -9223372036854775809", "SYNTAX_ERROR"),
    ],
)
def test_the_limits_are_exact(longest: str, longer: str, reason: str) -> None:
    assert condition_errors(longest) == []
    assert [each.reason for each in condition_errors(longer)] == [reason]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("9223372036854775806 + size('a') == 9223372036854775807", True),
        ("9223372036854775807 + size('a') > 0", Verdict.ERROR),
        ("-9223372036854775807 - size('a') == -9223372036854775808", True),
        ("-9223372036854775808 - size('a') < 0", Verdict.ERROR),
        ("-(-9223372036854775808 + size('')) > 0", Verdict.ERROR),
        ("4611686018427387904 * size('ab') > 0", Verdict.ERROR),
        ("4611686018427387904 * -size('ab') == -9223372036854775808", True),
        ("contact.properties.tier == 'gold'", True),
        ("contact.properties.of.city == 'Riga'", True),
        ("contact.properties.properties.tier == 'gold'", Verdict.MISSING),
    ],
)
def test_integers_end_at_64_bits_and_paths_where_they_say(text: str, outcome: Any) -> None:
    contact = {"tier": "gold", "of": {"city": "Riga"}}
    came_to = Condition(text).evaluate(Subject({}, contact_id="c", email="ada@example.com", contact_properties=contact))
    assert (came_to.verdict if isinstance(came_to, Failure) else came_to) == outcome


@pytest.mark.parametrize(
    "pattern", ["({})", "[{}]", "!({})", "({} + 1)", "(true ? {} : 1)", "size({})", "a.exists(x, {})"]
)
def test_a_nesting_of_a_hundred_levels_is_rejected(pattern: str) -> None:
    text = "1"
    for _ in range(100):
        text = pattern.format(text)
    assert [each.reason for each in condition_errors(text)] == ["TOO_DEEP"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(" * 8000, "SYNTAX_ERROR"),
        ("!" * 8000 + "true", "TOO_DEEP"),
        ("-" * 8000 + "1", "TOO_DEEP"),
        ("1" + "+1" * 4000, "TOO_DEEP"),
        ("[" * 8000, "SYNTAX_ERROR"),
    ],
)
def test_hostile_nesting_is_refused_quickly(text: str, reason: str) -> None:
    began = time.perf_counter()
    (error,) = condition_errors(text)
    assert error.reason == reason
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("text", [line for line in CONDITION_SEEDS if "[][" in line])
def test_nothing_is_known_of_the_items_of_an_empty_list(text: str) -> None:
    assert {each.reason for each in condition_errors(text)} <= {"TYPE_MISMATCH"}
    if not condition_errors(text):
        assert isinstance(outcome(text, {}), Failure)


def test_a_path_has_at_most_32_names() -> None:
    assert condition_errors("properties" + ".a" * 31 + " == 1") == []
    assert [each.reason for each in condition_errors("properties" + ".a" * 32 + " == 1")] == ["TOO_DEEP"]


def test_32_levels_and_long_chains_are_accepted() -> None:
    assert condition_errors("(" * 31 + "true" + ")" * 31) == []
    assert condition_errors(" && ".join(["true"] * 1000)) == []
    assert condition_errors(f"properties.a in [{','.join(['1'] * 1000)}]") == []


def test_a_text_beyond_the_limit_is_refused_before_it_is_parsed() -> None:
    assert condition_errors("true" + " " * (MAX_LENGTH - 4)) == []
    assert condition_errors("(" * (MAX_LENGTH + 1))[0].reason == "TOO_LONG"
    assert condition_errors("x" * 100_000)[0].reason == "TOO_LONG"


@given(st.text(alphabet="ab1.\"'()[]!&|=<>?:,+-*/% \\\nxrpropertiesevent", max_size=40) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for error in condition_errors(text):
        assert 1 <= error.line <= text.count("\n") + 1
        assert 1 <= error.column <= len(text) + 1


@pytest.mark.parametrize("text", ["", "  \n"])
def test_blank_text_always_holds(text: str) -> None:
    assert Condition(text).matches(Subject({}))
    assert Condition(text).trace(Subject({})) == []


# What the schema forbids


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("properties.order_Total > 1", "UNKNOWN_PROPERTY", 'did you mean "order_total"?'),
        ("has(properties.nothing)", "UNKNOWN_PROPERTY", '"nothing" is not in the schema'),
        ("properties.items[0].skuu == 'x'", "UNKNOWN_PROPERTY", 'did you mean "sku"?'),
        ("properties.items.exists(i, i.cost > 1)", "UNKNOWN_PROPERTY", "cost"),
        ("properties.order_total == 'x'", "TYPE_MISMATCH", "is a double, is never equal to a string"),
        ("properties.order_total == null", "TYPE_MISMATCH", "use has(...)"),
        ("properties.currency > 1", "TYPE_MISMATCH", "cannot be compared by > with an integer"),
        ("properties.order_total + 1 > 2", "TYPE_MISMATCH", "write 1.0 for 1"),
        ("properties.currency", "TYPE_MISMATCH", "must be true or false, but it is a string"),
        ("properties.order_total && true", "TYPE_MISMATCH", "must be true or false"),
        ("!properties.currency", "TYPE_MISMATCH", "must be true or false"),
        ("properties.currency in [1, 2]", "TYPE_MISMATCH", "the list holds an integer"),
        ("properties.currency in 'EUR'", "TYPE_MISMATCH", "in needs a list"),
        ("properties.order_total.startsWith('1')", "TYPE_MISMATCH", "startsWith needs a string"),
        ("size(properties.order_total) == 1", "TYPE_MISMATCH", "size needs"),
        ("properties.order_total.exists(x, true)", "TYPE_MISMATCH", "exists needs a list"),
        ("properties.items.exists(i, i.price)", "TYPE_MISMATCH", "must be true or false"),
        ("properties.items['x'] == 1", "TYPE_MISMATCH", "has no field"),
        ("properties.currency.code == 'x'", "TYPE_MISMATCH", "has no field"),
        ("timestamp(properties.order_total) == event.occurred_at", "TYPE_MISMATCH", "timestamp needs"),
        ("properties.paid_at < '2026-01-01'", "TYPE_MISMATCH", "write timestamp(properties.paid_at)"),
        ("properties.paid_at >= event.occurred_at", "TYPE_MISMATCH", "write timestamp(properties.paid_at)"),
        ("event.occurred_at == properties.paid_at", "TYPE_MISMATCH", "write timestamp(properties.paid_at)"),
        ("event.occurred_at > '2026-01-01T00:00:00Z'", "TYPE_MISMATCH", "a timestamp, cannot be compared"),
        ("event.occurred_at > timestamp('soon')", "INVALID_ARGUMENT", "RFC 3339"),
        ("event.occurred_at - event.received_at > duration('1 day')", "INVALID_ARGUMENT", "1h30m"),
        ("(properties.is_first_purchase ? 1 : 'x') > true", "TYPE_MISMATCH", "cannot be compared"),
    ],
)
def test_a_condition_that_cannot_hold_on_the_schema_is_rejected(text: str, reason: str, hint: str) -> None:
    (error,) = condition_errors(text, PURCHASE)
    assert error.reason == reason
    assert hint in error.message


@pytest.mark.parametrize(
    "text",
    [
        "properties.order_total > 100 && properties.order_total != 5.5",
        "properties.paid_at == '2026-06-01T12:00:00.000Z'",
        "properties.items.all(i, i.sku in ['a'] && i.price > 1)",
        "properties.items[0].price - 1.0 > properties.order_total",
        "contact.properties.anything.at_all == 1 || contact.email.endsWith('@x.org')",
        "properties.exists(name, name.startsWith('is_')) && 'currency' in properties",
        "event.revision % 2 == 1 && size(properties.items) * 2 > 3",
        "[].exists(x, x) || event.received_at - event.occurred_at > duration('1m')",
        "(properties.is_first_purchase ? 1 : properties.order_total) > 2",
    ],
)
def test_a_condition_that_may_hold_on_the_schema_is_accepted(text: str) -> None:
    assert condition_errors(text, PURCHASE) == []


@pytest.mark.parametrize(
    "text",
    [
        "properties.free",
        "!properties.free || properties.free == 1 || properties.free != 'x' || properties.free == [1]",
        "properties.free > 5 && properties.free < 'x' && properties.free + 1.0 > 2 && -properties.free < 1",
        "properties.free.deep[0]['name'] == true && 'x' in properties.free && properties.free in ['x', 1]",
        "properties.free.exists(each, each > 1) && size(properties.free) == 2 && properties.free.startsWith('x')",
        "timestamp(properties.free) < event.occurred_at",
        "has(properties.inner.free) && properties.inner.free == 'x'",
    ],
)
def test_a_property_of_type_any_may_stand_anywhere(text: str) -> None:
    free = Property("free", ANY)
    assert condition_errors(text, Schema((free, Property("inner", OBJECT, properties=(free,))))) == []


def test_all_errors_are_reported_in_text_order() -> None:
    found = condition_errors("properties.a == 1\n|| properties.currency > 1\n|| properties.b.c", PURCHASE)
    assert [(each.line, each.reason) for each in found] == [
        (1, "UNKNOWN_PROPERTY"),
        (2, "TYPE_MISMATCH"),
        (3, "UNKNOWN_PROPERTY"),
    ]
    assert [(each.path, each.reason) for each in refused("1 + 'a' == 2").violations] == [("condition", "TYPE_MISMATCH")]


def refused(text: str) -> ConditionInvalid:
    with pytest.raises(ConditionInvalid) as refusal:
        check(parse(text), None)
    return refusal.value


def test_without_a_definition_any_property_may_be_there() -> None:
    assert condition_errors("properties.a.b[0].c == properties.d && properties.e") == []
    assert [each.reason for each in condition_errors("properties.a + 1 == 2")] == ["TYPE_MISMATCH"]


KINDS = {bool: BOOL, int: DOUBLE, float: DOUBLE, str: TEXT, type(None): NULL, list: LIST, dict: MAP}
KINDS |= {Int: INTEGER, Timestamp: TIMESTAMP, Duration: DURATION}


@settings(max_examples=examples(500))
@given(conditions(("any",)), payloads, contacts)
def test_a_value_is_of_a_kind_that_the_check_foresaw(
    text: str, properties: dict[str, Any], contact: dict[str, Any] | None
) -> None:
    try:
        expression = parse(text)
    except ConditionInvalid:
        return
    subject = Subject(properties, "abc", "e", 3, 0, 0, "c", "ada@example.com", contact)
    value = compile_node(expression.root)(subject, new_frame(expression.root))
    if not isinstance(value, Failure):
        assert KINDS[type(value)] in _Checker(text, None).type_of(expression.root, {}).kinds


# What is evaluated


def test_a_number_of_a_payload_is_a_double_however_it_is_kept() -> None:
    for number in (7, 7.0):
        assert outcome("properties.n / 2.0 == 3.5", {"n": number}) is True
        assert outcome("[1, properties.n][1] / 2.0 == 3.5 && [1][0] / 2 == 0", {"n": number}) is True
        assert isinstance(outcome("properties.l[0] + 1 == 8", {"l": [number]}), Failure)


def test_comparing_across_integers_and_doubles_is_exact() -> None:
    assert outcome("properties.n == 9007199254740993", {"n": 2.0**53}) is False
    assert outcome("properties.n < 9007199254740993", {"n": 2.0**53}) is True


def test_true_is_not_one() -> None:
    for text in ("properties.b == 1", "properties.b in [1, 1.0]", "[properties.b] == [1]", "1 in [properties.b]"):
        assert outcome(text, {"b": True}) is False


def test_a_failure_has_a_message() -> None:
    assert outcome("properties.a.b > 1", {"a": {}}) == Failure(Verdict.MISSING, "properties.a.b is missing")
    assert outcome("contact.email == 'x'", {}) == Failure(Verdict.MISSING, "contact.email is missing")
    failure = outcome("properties.a > 1", {"a": "x"})
    assert isinstance(failure, Failure)
    assert failure.message == "A string > an integer is not defined"


def test_a_condition_knows_the_paths_that_it_reads() -> None:
    condition = Condition("properties.a.b == 1 || has(properties.c) || properties['d e'] && contact.email == 'x'")
    assert condition.properties_read == {"properties.a.b", "properties.c", 'properties["d e"]'}
    assert condition.reads_contact
    assert not Condition("properties.contact == 1").reads_contact


LARGE: dict[str, Any] = {"l": [float(number) for number in range(9000)], "s": "ab" * 120_000, "t": "a" * 240_000}


@pytest.mark.parametrize(
    "text",
    [
        "properties.l.all(x, properties.l.all(y, x >= 0 && y >= 0))",
        "properties.l.exists(x, properties.l == [x])  || properties.l.exists(x, x in properties.l + [x])",
        " || ".join(["properties.s.contains('ba' + 'bb')"] * 200),
        " || ".join(["properties.s + properties.s == properties.t"] * 150),
        " || ".join(["properties.l == [1.0] + properties.l"] * 150),
        " || ".join(["-1.0 in properties.l"] * 300),
        "properties.s.matches('(a|b)*a(a|b){200}$')",
        " || ".join(["properties.t.matches('(a+a+)+b')"] * 200),
    ],
)
def test_no_condition_takes_long(text: str) -> None:
    condition, subject = Condition(text), Subject(LARGE)
    began = time.perf_counter()
    failure = condition.evaluate(subject)
    assert time.perf_counter() - began < 5
    assert isinstance(failure, Failure)
    assert "100,000 steps" in failure.message
    assert condition.trace(subject)[0].verdict is Verdict.ERROR


def test_a_catastrophic_pattern_is_linear() -> None:
    began = time.perf_counter()
    assert outcome("properties.t.matches('(a*)*b')", {"t": "a" * 50_000}) is False
    assert time.perf_counter() - began < 5
