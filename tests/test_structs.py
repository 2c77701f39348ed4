from __future__ import annotations

import math
import sys
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from registry.values.json_values import PayloadBudget
from server.errors import InvalidArgument
from server.rpc.messages import structs
from server.rpc.messages.structs import Later, read_struct, write_struct, write_value
from tests.support import boundaries
from tests.support.messages import struct

# The sign of zero does not survive: JSON writes 0.
anywhere = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
numbers = (boundaries.doubles | anywhere).map(lambda n: n or 0)
texts = boundaries.texts | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=10
)
payloads = st.dictionaries(texts, values, max_size=4)


def written(payload: dict[str, Any]) -> Struct:
    made = Struct()
    write_struct(payload, made)
    return made


def read_in_steps(made: Struct) -> dict[str, Any]:
    later: Later = []
    found = read_struct(made, later=later)
    for steps in later:
        assert all(step is None for step in steps)
    return found


@given(payloads)
def test_a_payload_survives_its_struct(payload: dict[str, Any]) -> None:
    assert read_struct(written(payload)) == payload


@given(payloads)
def test_a_struct_survives_its_payload(payload: dict[str, Any]) -> None:
    made = struct(payload)
    assert written(read_struct(made)) == made


@given(payloads)
def test_a_struct_is_read_as_the_library_reads_it(payload: dict[str, Any]) -> None:
    made = struct(payload)
    assert read_struct(made) == MessageToDict(made)


@given(payloads | st.dictionaries(st.text("abc", min_size=1, max_size=3), scalars, max_size=20))
def test_a_large_struct_is_read_in_steps_as_at_once(payload: dict[str, Any]) -> None:
    made = struct(payload)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(structs, "_SMALL", 5)
        patched.setattr(structs, "_LARGE", 5)
        patched.setattr(structs, "_SLICE_VALUES", 2)
        found = read_in_steps(made)
    assert (found, [*found]) == (payload, sorted(payload))


@pytest.mark.parametrize("payload", [{"a": [1] * 9_000}, {f"p{number}": 1 for number in range(9_000)}])
def test_a_struct_of_many_values_is_read_in_many_steps(payload: dict[str, Any]) -> None:
    later: Later = []
    read_struct(struct(payload), later=later)
    assert sum(1 for steps in later for _ in steps) >= 9_000 // structs._SLICE_VALUES


@pytest.mark.parametrize("payload", [{"a": [1] * 10_001}, {"a": [[1] * 99] * 120}])
def test_budgets_hold_in_steps_too(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as at_once:
        read_struct(struct(payload))
    with pytest.raises(InvalidArgument) as in_steps:
        read_in_steps(struct(payload))
    assert in_steps.value.message == at_once.value.message


@given(values)
def test_a_single_value_is_written_as_in_a_struct(value: Any) -> None:
    alone = Value()
    write_value(value, alone)
    assert alone == struct({"x": value}).fields["x"]


# A text of seven bytes takes as many bytes in a list as a number.
@given(st.lists(numbers, min_size=structs._FEW, max_size=20), st.lists(scalars | st.just("seventy"), max_size=1))
def test_many_numbers_are_read_and_written_like_a_few(many: list[Any], others: list[Any]) -> None:
    payload = [many, [*many, *others, 1]]
    made = struct({"x": payload})
    assert written({"x": payload}) == made
    alone = [[read_struct(struct({"x": value}))["x"] for value in values] for values in payload]
    assert repr(read_struct(made)["x"]) == repr(alone)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_have_is_refused_among_many_too(number: float) -> None:
    data = Struct(
        fields={"x": Value(list_value=ListValue(values=[Value(number_value=n) for n in [*range(99), number]]))}
    )
    with pytest.raises(InvalidArgument) as refused:
        read_struct(data)
    assert [(each.path, each.reason) for each in refused.value.violations] == [
        ("properties.x[99]", "INVALID_PROPERTY_VALUE")
    ]


@given(st.binary(max_size=200))
def test_no_struct_raises_anything_but_a_refusal(data: bytes) -> None:
    with suppress(DecodeError, InvalidArgument):
        read_struct(Struct.FromString(data))


@pytest.mark.parametrize(
    ("given_number", "kept", "kind"),
    [(5.0, 5, int), (-0.0, 0, int), (2.0**53, 2**53, int), (2.0**54, 2.0**54, float), (0.5, 0.5, float)],
)
def test_an_integral_number_that_a_double_holds_exactly_is_an_int(given_number: float, kept: float, kind: type) -> None:
    number = read_struct(struct({"n": given_number}))["n"]
    assert (number, type(number)) == (kept, kind)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (Struct(fields={"x": Value()}), "properties.x"),
        (Struct(fields={"x": Value(struct_value=Struct(fields={"a.b": Value()}))}), 'properties.x["a.b"]'),
        (Struct(fields={"x": Value(list_value=ListValue(values=[Value(number_value=1), Value()]))}), "properties.x[1]"),
    ],
)
def test_a_value_without_a_kind_is_refused_with_its_path(data: Struct, path: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_struct(data)
    assert [(each.path, each.reason) for each in refused.value.violations] == [(path, "INVALID_PROPERTY_VALUE")]
    assert str(refused.value) == f"{path} is a google.protobuf.Value without a kind; for null, set null_value"


def test_a_stored_integer_beyond_the_range_of_a_double_is_written_as_the_largest_one() -> None:
    assert read_struct(written({"n": 10**309, "list": [-(10**400)], "long": [0.5, *[10**400] * 99]})) == {
        "n": sys.float_info.max,
        "list": [-sys.float_info.max],
        "long": [0.5, *[sys.float_info.max] * 99],
    }


@given(payloads, st.integers(1, 4))
def test_what_is_nested_deeper_than_the_budget_is_refused(payload: dict[str, Any], depth: int) -> None:
    if depth_of(payload) <= depth:
        assert read_struct(struct(payload), budget=PayloadBudget(depth=depth)) == payload
    else:
        with pytest.raises(InvalidArgument, match=f"nested too deep; at most {depth} levels"):
            read_struct(struct(payload), budget=PayloadBudget(depth=depth))


@given(st.integers(0, 300), st.integers(0, 300), st.integers(100, 500))
def test_what_holds_more_values_than_the_budget_is_refused(outside: int, inside: int, allowed: int) -> None:
    payload = {"list": [0] * inside} | {f"p{number}": number for number in range(outside)}
    if outside + inside + 1 <= allowed:
        assert read_struct(struct(payload), budget=PayloadBudget(values=allowed)) == payload
    else:
        with pytest.raises(InvalidArgument, match=f"may hold {allowed} values"):
            read_struct(struct(payload), budget=PayloadBudget(values=allowed))


def test_a_payload_is_counted_before_its_values_are_looked_at() -> None:
    payload = {f"p{number}": float("nan") for number in range(201)}
    with pytest.raises(InvalidArgument, match="may hold 200 values"):
        read_struct(struct(payload), budget=PayloadBudget(values=200))


def depth_of(value: Any) -> int:
    """Count the levels; a payload is the first."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)
