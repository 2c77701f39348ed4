from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.log_ids import LogIds, position_of

POSITIONS = st.integers(1, 2**40 - 1)
TIMES = st.integers(0, 2**48 * 1_000 - 1)


@given(POSITIONS, TIMES)
def test_an_id_is_a_uuid_of_version_7_that_carries_its_position(position: int, received_at: int) -> None:
    made = LogIds(received_at).make(position)
    assert str(UUID(made)) == made
    assert (UUID(made).version, UUID(made).variant) == (7, RFC_4122)
    assert UUID(made).int >> 80 == received_at // 1_000
    assert position_of(made) == position


@given(POSITIONS, POSITIONS, TIMES)
def test_ids_sort_as_their_positions(one: int, other: int, received_at: int) -> None:
    ids = LogIds(received_at)
    assert (ids.make(one) < ids.make(other)) == (one < other) or one == other


@pytest.mark.parametrize("text", ["", "nothing", "0190", "01900000-0000-4000-8000-000000000000"])
def test_other_text_than_an_id_has_no_position(text: str) -> None:
    assert position_of(text) is None
