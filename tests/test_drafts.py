from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.ingest.draft import Draft

# Few and small, so that equal contents come up.
scalars = st.none() | st.booleans() | st.sampled_from([0, 1, 1.5, "", "0", "a"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner), max_leaves=3
)
contents = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["", "a"]),
    st.sampled_from(["", "a", "b"]),
    st.dictionaries(st.sampled_from("ab"), values),
    st.none() | st.sampled_from([0, 1]),
)


def fingerprint(content: tuple[str, str, str, dict[str, Any], int | None], key: str = "k") -> object:
    return Draft(*content, idempotency_key=key).fingerprint()


@given(contents, contents)
def test_fingerprints_are_equal_where_the_contents_are(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) is same


@given(contents, st.randoms(use_true_random=False))
def test_the_order_of_properties_is_no_content(content: Any, random: Any) -> None:
    name, contact_id, email, given_properties, occurred_at = content
    shuffled = list(given_properties.items())
    random.shuffle(shuffled)
    turned = (name, contact_id, email, dict(shuffled), occurred_at)
    assert fingerprint(content) == fingerprint(turned, key="another")
