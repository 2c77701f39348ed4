"""The values that Signalbox can store: numbers, texts, budgets, and the messages of violations."""

from __future__ import annotations

import json
import sys
from time import thread_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.coercion.report import CoercionKind
from registry.coercion.reverse import undo
from registry.coercion.validation import coerce_undefined, compile_schema
from registry.definitions.schema import Property, PropertyType, Schema
from registry.values import json_values
from registry.values.json_values import (
    CONTACT_BUDGET,
    EVENT_BUDGET,
    MAX_PATH,
    PayloadBudget,
    json_violation,
    number_problem,
    payload_violation,
    value_violation,
    with_doubles,
)
from registry.values.stored_json import load_nested, load_stored
from tests.support import boundaries

LARGEST = int(sys.float_info.max)
RANGE = "is beyond the range of a double; a number must be finite"
HALF = "contains half a surrogate pair, which is not a character"


def found(values: dict[str, Any], budget: PayloadBudget = EVENT_BUDGET, received: int | None = None) -> Any:
    problem = payload_violation(values, "data", budget, received)
    return problem and (problem.path, problem.reason, problem.message)


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        (10**309, "data.v", RANGE),
        (-(10**309), "data.v", RANGE),
        (float("inf"), "data.v", RANGE),
        (float("nan"), "data.v", "is NaN; a number must be finite"),
        ([0, {"a.b": [10**400]}], 'data.v[1]["a.b"][0]', RANGE),
        ("\ud800", "data.v", HALF),
        ({"x": "a\udfffb"}, "data.v.x", HALF),
        ({"\udc00": 1}, r'data.v["\udc00"]', HALF),
    ],
)
def test_a_value_that_cannot_be_stored_is_rejected_with_path_and_reason(value: Any, path: str, problem: str) -> None:
    assert found({"v": value}) == (path, "INVALID_PROPERTY_VALUE", f"{path} {problem}")


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, sys.float_info.max, 5e-324, 2**53 + 1, "\0", "\U0001f600", None])
def test_a_value_at_its_bound_is_stored(value: Any) -> None:
    assert found({"v": value, "list": [value], "object": {"v": value}}) is None


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("budget", [EVENT_BUDGET, CONTACT_BUDGET])
def test_a_payload_may_hold_as_many_values_as_its_budget(budget: PayloadBudget, flat: bool) -> None:
    def payload(count: int) -> dict[str, Any]:
        return {str(number): 0 for number in range(count)} if flat else {"list": [0] * (count - 1)}

    assert found(payload(budget.values), budget) is None
    message = f"data may hold {budget.values:,} values, not more"
    assert found(payload(budget.values + 1), budget) == ("data", "TOO_MANY_VALUES", message)


@pytest.mark.parametrize("budget", [EVENT_BUDGET, CONTACT_BUDGET])
def test_a_payload_may_take_as_many_bytes_as_its_budget(budget: PayloadBudget) -> None:
    room = budget.size - len('{"v":""}')
    for more in (0, 1):
        text = json.dumps({"v": "x" * (room + more)}, separators=(",", ":"))
        message = f"data takes {budget.size + 1:,} bytes; at most {budget.size:,} are allowed"
        assert found(json.loads(text), budget, len(text)) == (("data", "TOO_LARGE", message) if more else None)


def test_numbers_that_take_more_bytes_than_they_were_sent_with_are_counted_as_they_are_stored() -> None:
    text = '{"v":[' + ",".join(["1e15"] * 5_000) + "]}"
    assert found(json.loads(text), PayloadBudget(size=len(text)), len(text)) is not None


@pytest.mark.parametrize("depth", [1, 2, 32])
def test_a_payload_may_be_nested_as_deep_as_its_budget(depth: int) -> None:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"v": value}
    budget = PayloadBudget(depth=depth)
    assert found(value, budget) is None
    path = "data" + ".v" * depth
    assert found({"v": value}, budget) == (
        path,
        "TOO_DEEP",
        f"data is nested too deep; at most {depth} levels are allowed",
    )


def test_a_path_in_a_refusal_is_bounded() -> None:
    value: Any = 10**400
    for _ in range(30):
        value = {"\x01" * 300: value}
    problem = payload_violation(value, "data", EVENT_BUDGET)
    assert problem is not None
    assert len(problem.path) <= MAX_PATH + 1
    assert len(problem.message) < MAX_PATH + 100


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("1e400", "n", RANGE),
        ("-1.8e308", "n", RANGE),
        ("9" * 309, "n", RANGE),
        ("-" + "9" * 5_000, "n", RANGE),
        (r'"\ud800"', "n", HALF),
        (r'{"\udfff":1}', r'n["\udfff"]', HALF),
    ],
)
def test_the_place_of_a_value_that_a_decoder_rejects_is_found(text: str, path: str, problem: str) -> None:
    refused = json_violation(f'{{"first": [1, {{}}], "n": {text}}}'.encode())
    assert refused is not None
    assert (refused.path, refused.message) == (path, f"{path} {problem}")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"n": NaN}', b'{"n": 1}', b"\xff", b"[1,]"])
def test_no_place_is_found_in_a_text_that_is_not_json_or_is_right(content: bytes) -> None:
    assert json_violation(content) is None


@pytest.mark.parametrize("text", ["1e400", "9" * 5_000, r'"\ud800"'])
def test_a_rejected_value_is_found_though_its_name_is_repeated(text: str) -> None:
    refused = json_violation(f'{{"a": {{"b": [0, {text}], "b": 1}}, "a": 2}}'.encode())
    assert refused is not None
    assert refused.path == "a.b[1]"


def test_each_value_is_examined_once_however_it_is_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    examined = 0

    def counted(number: float) -> str:
        nonlocal examined
        examined += 1
        return number_problem(number)

    monkeypatch.setattr(json_values, "number_problem", counted)
    content = '{"a": ' * 500 + f"[{'0, ' * 1_000}1e400]" + ', "a": 1}' * 500
    refused = json_violation(content.encode())
    assert refused is not None
    assert examined == 1_001


# Numbers that no schema covers


@pytest.mark.parametrize("wrap", [lambda n: {"v": n}, lambda n: {"v": [n]}, lambda n: {"v": {"a": [[n]]}}])
@pytest.mark.parametrize("coerce", [coerce_undefined, compile_schema(Schema((Property("v", PropertyType.ANY),)))])
@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (2**53 + 1, 2**53),
        (2**53 + 3, 2.0**53 + 4),
        (2**64, 2.0**64),
        (-(2**60) - 1, -(2.0**60)),
        (LARGEST, sys.float_info.max),
    ],
)
def test_an_integer_beyond_the_exact_ones_is_kept_as_the_nearest_double_and_reported(
    number: int, kept: float, coerce: Any, wrap: Any
) -> None:
    sent = wrap(number)
    coerced = coerce(sent)
    assert coerced.properties == wrap(kept)
    assert json.dumps(coerced.properties) == json.dumps(wrap(kept))
    (coercion,) = coerced.coercions
    assert (coercion.kind, coercion.before, coercion.after) == (CoercionKind.ROUNDED, number, kept)
    assert undo(coerced.properties, coerced.coercions) == sent
    assert with_doubles(sent) == wrap(kept)


def test_an_undeclared_object_under_a_long_name_is_left_by_undo() -> None:
    sent: dict[str, Any] = {"n" * 300: {"a": [2**53 + 1]}}
    coerced = coerce_undefined(sent)
    assert undo(coerced.properties, coerced.coercions) == {"n" * 300: {"a": [2**53]}}


values = st.recursive(
    st.none()
    | st.booleans()
    | boundaries.texts
    | st.text(max_size=3)
    | boundaries.doubles
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=3))
def test_stored_values_are_stored_again_unchanged(payload: dict[str, Any]) -> None:
    once = with_doubles(payload)
    assert with_doubles(once) is once or with_doubles(once) == once
    coerced = coerce_undefined(payload)
    assert coerced.properties == once
    assert coerce_undefined(coerced.properties).properties == once
    assert value_violation(once, "") is None


def test_a_stored_number_beyond_the_range_is_read_as_the_largest_double() -> None:
    stored = json.dumps({"n": 10**309, "list": [-(10**400), 2**60 + 1], "text": "x" * 400})
    assert load_stored(stored) == {
        "n": sys.float_info.max,
        "list": [-sys.float_info.max, 2**60 + 1],
        "text": "x" * 400,
    }


def test_stored_json_is_read_up_to_a_depth() -> None:
    nested = "[" * 32 + "1" + "]" * 32
    assert load_nested(nested, 32) == json.loads(nested)
    wide = "[" + ",".join(["[[]]"] * 100) + "]"
    assert load_nested(wide, 3) == json.loads(wide)
    for deeper in (f"[{nested}]", f'{{"n":{nested}}}'):
        with pytest.raises(ValueError, match="nested more than 32 levels deep"):
            load_nested(deeper, 32)


NUMBERS = ("1.5", "1e400", "1E+400", "-1e308", "9" * 309, "9" * 308, "1" * 300 + "e10", "0" * 400)
TEXTS = ('"\\ud83d"', '"\\uD800x"', '"\\ud83d\\ude00"', '"text"', '"\u00ed"')
pieces = st.sampled_from((*NUMBERS, *TEXTS, "[", "]", ",", "NaN", "tru", '{"a":', "}"))


@given(st.lists(pieces, max_size=8))
def test_texts_that_are_not_looked_at_closely_hold_no_violation(parts: list[str]) -> None:
    for text in ("".join(parts), "[" + ",".join(parts) + "]"):
        content = text.encode()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(json_values, "_may_hold_violations", lambda _: True)
            expected = json_violation(content)
        assert json_violation(content) == expected


def test_half_a_pair_in_bytes_is_looked_at_closely() -> None:
    found = json_violation('["\ud800"]'.encode("utf-8", "surrogatepass"))
    assert found is not None


def test_a_large_text_that_holds_no_violation_is_rejected_quickly() -> None:
    content = ("[" + ",".join(["123456"] * 140_000) + "]").encode()
    began = thread_time()
    assert json_violation(content) is None
    assert thread_time() - began < 0.02
