from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import InvalidArgument, InvalidPageToken
from server.paging import Page, PageRequest
from tests.support.laws import examples

FILTERS = ("project", "search")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def token_of(value: Any) -> str:
    return urlsafe_b64encode(msgspec.json.encode(value)).decode()


@given(st.text() | st.binary().map(lambda data: urlsafe_b64encode(data).decode()))
def test_no_garbage_is_a_page_token(garbage: str) -> None:
    if garbage:
        with pytest.raises(InvalidPageToken):
            PageRequest(token=garbage).cursor(FILTERS, int)


@settings(max_examples=examples(40))
@given(json_values)
def test_no_json_of_a_stranger_is_a_page_token(value: Any) -> None:
    with pytest.raises(InvalidPageToken):
        PageRequest(token=token_of(value)).cursor(FILTERS, int)


@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_deep_nesting_is_no_page_token(depth: int) -> None:
    token = urlsafe_b64encode(b"[" * depth + b"]" * depth).decode()
    with pytest.raises(InvalidPageToken):
        PageRequest(token=token).cursor(FILTERS, int)


@given(st.lists(st.integers(0, 2**62), unique=True), st.integers(1, 10))
def test_pages_put_together_are_the_list(numbers: list[int], size: int) -> None:
    numbers.sort()
    seen: list[int] = []
    request = PageRequest(size)
    for _ in range(len(numbers) + 1):
        (after,) = request.cursor(FILTERS, int) or (-1,)
        found = [number for number in numbers if number > after][: request.limit() + 1]
        page = request.page(found, FILTERS, lambda number: (number,))
        seen += page.items
        if not page.next_token:
            break
        assert len(page.items) == size
        request = PageRequest(size, page.next_token)
    assert seen == numbers


def test_a_token_serves_its_own_filters_and_kinds_alone() -> None:
    token = PageRequest(1).page(["a", "b"], FILTERS, lambda item: (item,)).next_token
    assert PageRequest(token=token).cursor(FILTERS, str) == ("a",)
    for filters, kinds in ((("other", "search"), (str,)), (FILTERS, (int,)), (FILTERS, (str, str)), (FILTERS, ())):
        with pytest.raises(InvalidPageToken):
            PageRequest(token=token).cursor(filters, *kinds)


def test_a_token_holds_no_number_that_its_list_cannot_have() -> None:
    for number, most in ((1_000, 1_000), (2**63 - 1, 2**63 - 1), (0, 0)):
        token = PageRequest(1).page([number, number], FILTERS, lambda item: (item,)).next_token
        assert PageRequest(token=token).cursor(FILTERS, int, most=most) == (number,)
        for beyond in (most + 1, -most - 1):
            forged = PageRequest(1).page([beyond, beyond], FILTERS, lambda item: (item,)).next_token
            with pytest.raises(InvalidPageToken):
                PageRequest(token=forged).cursor(FILTERS, int, most=most)


def test_a_page_has_fifty_items_by_default_and_a_thousand_at_most() -> None:
    assert [PageRequest(size).limit() for size in (0, 1, 1_000, 1_001)] == [50, 1, 1_000, 1_000]
    with pytest.raises(InvalidArgument):
        PageRequest(-1).limit()


def test_a_token_holds_numbers_that_a_database_takes_unless_its_list_has_fewer() -> None:
    """A column of 64 bits holds up to 2^63 - 1; a larger number would be an internal error."""
    largest = 2**63 - 1
    for number in (largest, -largest):
        assert PageRequest(token=forged(number)).cursor(FILTERS, int) == (number,)
    for beyond in (largest + 1, -largest - 1, 2**64 - 1):
        with pytest.raises(InvalidPageToken):
            PageRequest(token=forged(beyond)).cursor(FILTERS, int)


def forged(number: int) -> str:
    return PageRequest(1).page([number, number], FILTERS, lambda item: (item,)).next_token


def test_every_number_of_a_cursor_is_bounded_and_no_other_kind_is_a_number() -> None:
    for cursor in ((1, 2**63), (2**63, 1)):
        token = PageRequest(1).page([cursor, cursor], FILTERS, lambda item: item).next_token
        with pytest.raises(InvalidPageToken):
            PageRequest(token=token).cursor(FILTERS, int, int)
    token = PageRequest(1).page([True, True], FILTERS, lambda item: (item,)).next_token
    with pytest.raises(InvalidPageToken):
        PageRequest(token=token).cursor(FILTERS, int)


def test_a_page_says_whether_more_follows() -> None:
    request = PageRequest(2)
    for found, more, expected in (
        ("ab", None, False),
        ("abc", None, True),
        ("a", None, False),
        ("", None, False),
        ("ab", True, True),
        ("a", True, True),
        ("ab", False, False),
        ("abc", False, False),
    ):
        page = request.page(list(found), FILTERS, lambda item: (item,), more=more)
        assert "".join(page.items) == found[:2]
        assert bool(page.next_token) is expected
        if expected:
            assert PageRequest(token=page.next_token).cursor(FILTERS, str) == (page.items[-1],)


def test_the_first_items_of_a_page_are_a_page() -> None:
    page: Page[str] = Page(["a", "b", "c"], "rest", lambda item: f"after {item}")
    assert (page.first(3), page.first(4)) == (page, page)
    for count, items in ((1, ["a"]), (2, ["a", "b"])):
        first = page.first(count)
        assert (first.items, first.next_token) == (items, f"after {items[-1]}")
        assert first.token_after("x") == "after x"


def test_a_request_without_a_token_begins_at_the_first_page() -> None:
    assert PageRequest().cursor(FILTERS, int) is None
    assert (PageRequest().size, PageRequest().token) == (0, "")
