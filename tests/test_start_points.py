"""Cursors: what they carry, and what is none."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.delivery import start_points
from server.delivery.start_points import Place, check_history, make_cursor
from server.errors import CursorInvalid, CursorRewound

MATCH_ID = "01980000-0000-7000-8000-00112233abcd"
MARK = bytes.fromhex("112233abcd")
NO_MARK = bytes(5)
LARGEST = 2**63 - 1


@given(st.integers(0, LARGEST), st.binary(min_size=5, max_size=5))
def test_a_cursor_carries_the_position_and_the_end_of_the_id(position: int, mark: bytes) -> None:
    cursor = make_cursor("p1", Place(position, f"01980000-0000-7000-8000-00{mark.hex()}"))
    assert len(cursor) == 28
    assert start_points._read_cursor("p1", cursor) == (position, mark)
    with pytest.raises(CursorInvalid):
        start_points._read_cursor("p2", cursor)


def test_a_cursor_before_the_first_match_has_no_mark() -> None:
    assert start_points._read_cursor("p1", make_cursor("p1", Place(0, ""))) == (0, NO_MARK)


def test_no_byte_of_a_cursor_can_be_changed() -> None:
    content = urlsafe_b64decode(make_cursor("p1", Place(7, MATCH_ID)))
    for index in range(len(content)):
        changed = bytearray(content)
        changed[index] ^= 1
        with pytest.raises(CursorInvalid):
            start_points._read_cursor("p1", urlsafe_b64encode(changed).decode())


@pytest.mark.parametrize("text", ["", "x", "é" * 28, "é" * 20, "!" * 28, "A" * 28, "A" * 20, "A" * 24, "A" * 32])
def test_a_text_that_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(CursorInvalid):
        start_points._read_cursor("p1", text)


@pytest.mark.parametrize("count", [8, 15, 16])
def test_a_cursor_of_an_earlier_version_has_a_digest_of_seven_bytes(count: int) -> None:
    content = (7).to_bytes(8, "big")
    cursor = urlsafe_b64encode(content + start_points._digest("p1", content, 7)).decode()
    assert len(cursor) == 20
    assert start_points._read_cursor("p1", cursor) == (7, NO_MARK)
    with pytest.raises(CursorInvalid):
        start_points._read_cursor("p1", cursor[:count])


@pytest.mark.parametrize(
    ("position", "mark", "kept", "rewound"),
    [
        (9, NO_MARK, MATCH_ID, False),
        (10, NO_MARK, MATCH_ID, False),
        (11, NO_MARK, MATCH_ID, True),
        (10, MARK, MATCH_ID, False),
        (10, MARK, MATCH_ID[:-1] + "e", True),
        # A match that retention has deleted cannot be compared.
        (10, MARK, "", False),
        (11, MARK, MATCH_ID, True),
    ],
)
def test_a_place_is_refused_whose_history_the_log_has_lost(
    monkeypatch: pytest.MonkeyPatch, position: int, mark: bytes, kept: str, rewound: bool
) -> None:
    connection: Any = None
    monkeypatch.setattr(start_points, "match_id_at", lambda *_: kept)
    with pytest.raises(CursorRewound) if rewound else nullcontext() as refused:
        check_history(connection, 1, position, mark, 10)
    if refused is not None:
        assert refused.value.metadata == {"position": str(position), "head_position": "10"}
        with pytest.raises(CursorRewound):
            start_points.check_place(connection, 1, Place(position, MATCH_ID if mark == MARK else ""), 10)
