"""Values at which rules change, for strategies that would rarely draw them."""

from __future__ import annotations

from math import inf, nextafter

from hypothesis import strategies as st

MAX_DOUBLE, MIN_DOUBLE = 1.7976931348623157e308, 5e-324

doubles = st.sampled_from(
    [
        *(0, 0.0, -0.0, 1, 1.0, -1, -1.0, 2, 2.0, 2.5, 3, 3.0),
        *(nextafter(bound, end) for bound in (0.0, 1.0, 2.0, 2.5) for end in (inf, -inf)),
        *(2**53 - 1, 2**53, float(2**53), -(2**53), MAX_DOUBLE, -MAX_DOUBLE, MIN_DOUBLE, -MIN_DOUBLE),
    ]
)
"""Doubles at and beside the numbers that tests compare with, whole ones also as Python's int."""

texts = st.sampled_from(
    ["", " ", "\x01", "\x7f", "\x85", "\u2028", "\ud7ff", "\ue000", "\ufeff", "\uffff", "\U0010ffff"]
)
"""Texts at the ends of the planes and beside the surrogates, and those that are blank or hard to print."""
