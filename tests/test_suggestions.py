from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.suggestions import Suggestions

SUGGESTIONS = Suggestions(["order_total", "currency", "is_first_purchase", "x"])


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [
        ("order_totl", "order_total"),
        ("order_totall", "order_total"),
        ("order_tptal", "order_total"),
        ("oder_total", "order_total"),
        ("orderTotal", "order_total"),
        ("ORDER-TOTAL", "order_total"),
        ("isFirstPurchase", "is_first_purchase"),
        ("colour", None),
        ("", None),
        ("order_total" * 20, None),
    ],
)
def test_the_name_that_was_meant_is_found(given_name: str, meant: str | None) -> None:
    assert SUGGESTIONS.closest(given_name) == meant


@given(st.text(max_size=80))
def test_any_text_gets_a_declared_name_or_none(name: str) -> None:
    assert SUGGESTIONS.closest(name) in {"order_total", "currency", "is_first_purchase", "x", None}
