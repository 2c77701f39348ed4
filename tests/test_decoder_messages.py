from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from registry.values.decoder_messages import shape_violation, syntax_problem


class Inner(msgspec.Struct):
    n: int


class Body(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=1, max_length=2_000)] = "x"
    note: str | None = None
    count: Annotated[int, Meta(ge=1, le=1_000)] = 1
    ratio: float = 1
    flag: bool = True
    items: Annotated[list[str], Meta(min_length=1, max_length=2)] = []
    values: dict[str, Any] = {}
    mixed: int | str | list[str] | None = None
    inner: Inner | None = None
    many: list[Inner] = []


@pytest.mark.parametrize(
    ("sent", "path", "message"),
    [
        ("[]", "", "The body must be an object; got an array"),
        ("true", "", "The body must be an object; got a boolean"),
        ('{"text":5}', "text", "text must be a string; got a number"),
        ('{"text":null}', "text", "text must be a string; got null"),
        ('{"note":{}}', "note", "note must be a string or null; got an object"),
        ('{"count":"1"}', "count", "count must be a whole number; got a string"),
        ('{"count":1.5}', "count", "count must be a whole number; got a number with a fraction"),
        ('{"ratio":"1"}', "ratio", "ratio must be a number; got a string"),
        ('{"flag":1}', "flag", "flag must be true or false; got a number"),
        ('{"values":[]}', "values", "values must be an object; got an array"),
        ('{"items":["a",5]}', "items[1]", "items[1] must be a string; got a number"),
        ('{"mixed":true}', "mixed", "mixed must be a whole number or a string or an array or null; got a boolean"),
        ('{"text":""}', "text", "text must have at least 1 character"),
        (f'{{"text":"{"x" * 2_001}"}}', "text", "text must have at most 2,000 characters"),
        ('{"items":[]}', "items", "items must have at least 1 item"),
        ('{"items":["a","b","c"]}', "items", "items must have at most 2 items"),
        ('{"count":0}', "count", "count must be at least 1"),
        ('{"count":1001}', "count", "count must be at most 1,000"),
        ('{"inner":{}}', "inner.n", "inner.n is required"),
        ('{"many":[{"n":1},{}]}', "many[1].n", "many[1].n is required"),
        ('{"nope":1}', "nope", "nope is not a field of the body"),
    ],
)
def test_a_value_of_the_wrong_form_is_named_with_what_would_be_right(sent: str, path: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(sent, type=Body)
    violation = shape_violation(str(caught.value))
    assert (violation.path, violation.message) == (path, message)


def test_a_message_of_another_form_is_left_as_it_is() -> None:
    violation = shape_violation("Invalid RFC3339 encoded datetime - at `$.inner.at`")
    assert (violation.path, violation.message) == ("inner.at", "Invalid RFC3339 encoded datetime")


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"", "it is empty"),
        (b'{"a":"b"', "it ends too early"),
        (b'{"a":1} x', "trailing characters (byte 9)"),
        (b'{"a":NaN}', "invalid character (byte 5)"),
        (b'{"\xc3\xa4":"\xff"}', "it must be UTF-8, and byte 7 is not"),
    ],
)
def test_a_text_that_is_not_json_is_described(sent: bytes, problem: str) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as caught:
        msgspec.json.decode(sent)
    assert syntax_problem(sent, caught.value) == problem
