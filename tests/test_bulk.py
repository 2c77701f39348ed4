"""Pairs of integers as spans."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from automation.bulk import MAX_SPANS, spans

pieces = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(-3, 3)), max_size=6)


@given(pieces)
def test_spans_are_the_pairs_that_they_were_made_of(pieces: list[tuple[int, int, int]]) -> None:
    pairs, last = [], 0
    for gap, length, offset in pieces:
        pairs += [(number, number + offset) for number in range(last + gap, last + gap + length)]
        last = pairs[-1][0]
    breaks = sum(after != (before[0] + 1, before[1] + 1) for before, after in pairwise(pairs))
    found = spans(pairs)
    assert len(found) == (breaks + bool(pairs) if breaks < MAX_SPANS else 0)
    if found:
        whole = [(number, number + span.offset) for span in found for number in range(span.first, span.last + 1)]
        assert whole == pairs
