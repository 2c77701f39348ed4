"""The lists of the contract and their filters, from the descriptors."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from automation import run_pages
from automation.subscriptions import parked_matches
from server.rpc.contract import SERVICES
from server.storage import audit_entries
from server.storage import contacts as contact_store
from server.storage.events import pages as event_pages
from server.storage.quarantine import search as refused_event_search

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest
    from google.protobuf.descriptor import Descriptor, MethodDescriptor

PAGING = {"page_size", "page_token"}

LIMITED = {
    "EXAMINED_ROWS": (audit_entries, event_pages, parked_matches, refused_event_search, run_pages),
    "EXAMINED_LOG_ROWS": (contact_store, event_pages, run_pages),
}
"""The modules whose pages examine a limited number of rows."""


def examine_at_most(monkeypatch: pytest.MonkeyPatch, rows: int, log_rows: int) -> None:
    """Lower the limits of rows that a page examines. Fail if a module no longer has its limit."""
    for limit, count in (("EXAMINED_ROWS", rows), ("EXAMINED_LOG_ROWS", log_rows)):
        for module in LIMITED[limit]:
            monkeypatch.setattr(module, limit, count)


def lists() -> dict[str, MethodDescriptor]:
    """Return the methods that answer in pages, by name."""
    methods = [method for service in SERVICES for method in service.methods]
    return {method.name: method for method in methods if "page_token" in method.input_type.fields_by_name}


def filters_of(request: Descriptor) -> set[str]:
    """Return the fields of a request other than those that choose the page."""
    return set(request.fields_by_name) - PAGING


def singles_and_pairs(
    request: Descriptor, values: Mapping[str, Sequence[Any]], always: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield no filter, each value of each filter, and each pair of values of two filters that may stand together."""
    yield dict(always)
    named = [(field, value) for field in sorted(values) for value in values[field]]
    for field, value in named:
        yield {**always, field: value}
    for (one, value), (other, other_value) in combinations(named, 2):
        choices = [request.fields_by_name[field].containing_oneof for field in (one, other)]
        if one != other and (choices[0] is None or choices[0] is not choices[1]):
            yield {**always, one: value, other: other_value}
