"""Responses within their size: pages, receipts and violations, and what is left out of those that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct, Value

from automation.matches import Match, MatchKind
from registry.errors import Violation
from server.errors import InvalidArgument, QueueFull
from server.ingest.draft import Draft
from server.model import Event
from server.paging import Page
from server.rpc.messages import receipts, response_size
from server.rpc.messages.enums import View
from server.rpc.messages.events import event_message, write_error
from server.rpc.messages.response_size import MAX_DETAIL_BYTES, size_of, write_details, write_page
from signalbox.v1 import event_ingest_pb2, event_pb2
from tests.support.message_values import AUTOMATION, COERCIONS, nested, plain, with_properties

if TYPE_CHECKING:
    from collections.abc import Mapping

# Pages and details


def values(*sizes: int) -> list[Value]:
    """Make values of these sizes as items: texts of up to 127 bytes have six bytes of framing and two of their own."""
    made = [Value(string_value="x" * (size - 8)) for size in sizes]
    assert [size_of(each) for each in made] == list(sizes)
    return made


def page_of(count: int) -> Page[Value]:
    return Page(values(*[50] * count), "rest", lambda _: "after")


@pytest.mark.parametrize(
    ("room", "kept", "token"),
    [(150, 3, "rest"), (149, 2, "after"), (100, 2, "after"), (99, 1, "after"), (50, 1, "after"), (1, 1, "after")],
)
def test_a_page_ends_with_the_last_item_that_fits_and_has_at_least_one(room: int, kept: int, token: str) -> None:
    into = event_pb2.Event().properties.fields["list"].list_value.values
    assert write_page(page_of(3), lambda item: item, into, room) == token
    assert len(into) == kept


def test_a_page_has_the_room_of_a_response_unless_it_is_given_less() -> None:
    quarter = values(100)[0]
    quarter.string_value = "x" * (1_000_000 - 12)
    assert size_of(quarter) == 1_000_000 - 12 + 4 + 6
    into = event_pb2.Event().properties.fields["list"].list_value.values
    assert write_page(Page([quarter] * 5, "", lambda _: "after"), lambda item: item, into) == "after"
    assert len(into) == 4


@pytest.mark.parametrize(("more", "omitted"), [(0, 0), (1, 1)])
def test_details_are_written_up_to_a_mebibyte_and_the_rest_counted(more: int, omitted: int) -> None:
    sizes = [100] * 20
    large = MAX_DETAIL_BYTES - sum(sizes) + more
    details: list[Any] = values(*sizes)
    big = Value(string_value="x" * (large - 10))
    assert size_of(big) == large
    into = event_pb2.Event().properties.fields["list"].list_value.values
    assert write_details([*details, big], lambda detail, message: message.CopyFrom(detail), into) == omitted
    assert len(into) == 21 - omitted


def test_up_to_sixteen_details_are_written_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_size, "MAX_DETAIL_BYTES", 210)
    for count, omitted in ((16, 0), (17, 13)):
        into = event_pb2.Event().properties.fields["list"].list_value.values
        found = write_details(values(*[50] * count), lambda detail, message: message.CopyFrom(detail), into)
        assert (found, len(into)) == (omitted, count - omitted)


# Receipts


def draft(number: int = 1, *, error: Exception | None = None, matches: int = 0, duplicate: bool = False) -> Draft:
    properties = {"text": "x" * 100}
    event = Event(f"e{number}", number, "paid", "d1", 2, "c1", "ada@example.com", properties, COERCIONS, 1, 2, matches)
    made = Draft("paid", "c1", "", properties, error=error, duplicate=duplicate)
    made.event = None if error else event
    made.matches = tuple(
        (Match(at, f"m{at}", MatchKind.STARTED, 4, at, f"r{at}", number, "paid", 9, 3), AUTOMATION)
        for at in range(1, matches + 1)
    )
    return made


def receipt(made: Draft, view: View, room: int = 1_000_000) -> event_ingest_pb2.EventReceipt:
    into = event_ingest_pb2.EventReceipt()
    receipts.write_receipt(made, view, into, room)
    return into


def test_a_receipt_holds_what_its_view_names() -> None:
    brief = receipt(draft(matches=2), View.RECEIPT)
    assert plain(brief) == {
        "event": {
            "id": "e1",
            "position": "1",
            "revision": 2,
            "contact_id": "c1",
            "received_at": "1970-01-01T00:00:00.000002Z",
        },
        "coercion_count": 2,
        "match_count": 2,
    }
    coerced = receipt(draft(matches=2), View.COERCED)
    assert coerced.event.email == "ada@example.com"
    assert (coerced.coercion_count, coerced.match_count, len(coerced.matches)) == (2, 2, 0)
    whole = receipt(draft(matches=2), View.MATCHES)
    assert ([each.id for each in whole.matches], whole.truncated) == (["m1", "m2"], False)
    assert receipt(draft(duplicate=True), View.RECEIPT).duplicate
    assert not brief.duplicate


def test_a_receipt_counts_the_runs_that_were_started() -> None:
    made = draft(matches=2)
    (first, automation), second = made.matches
    resumed = Match(9, "m9", MatchKind.RESUMED, 4, 1, "r1", 1, "paid", 9, 3)
    made.matches = ((resumed, automation), (first, automation), second)
    assert receipt(made, View.MATCHES).match_count == 2


def test_a_receipt_reports_that_matches_do_not_fit() -> None:
    whole = receipt(draft(matches=2), View.MATCHES)
    room = size_of(whole.event) + sum(map(size_of, whole.matches))
    assert receipt(draft(matches=2), View.MATCHES, room) == whole
    cut = receipt(draft(matches=2), View.MATCHES, room - 1)
    assert ([each.id for each in cut.matches], cut.truncated, cut.match_count) == (["m1"], True, 2)


def test_matches_of_the_deepest_properties_leave_them_to_the_event() -> None:
    for depth, whole in ((31, True), (32, False)):
        made = draft(matches=1)
        made.event = with_properties(nested(depth))
        written_receipt = receipt(made, View.MATCHES)
        assert bool(written_receipt.matches[0].event.properties.fields) is whole
        assert bool(written_receipt.matches[0].event.coercions) is whole
        assert written_receipt.event.properties.fields


def results(drafts: list[Draft], view: View) -> list[event_ingest_pb2.EventResult]:
    response = event_ingest_pb2.SendEventsResponse()
    receipts.write_results(drafts, view, response.results)
    return list(response.results)


def test_results_are_whole_while_there_is_room_and_brief_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, brief = receipt(draft(), View.COERCED), receipt(draft(), View.RECEIPT)
    brief.truncated = True
    for spare, expected in ((0, [whole, brief, brief]), (-1, [brief] * 3), (size_of(whole), [whole, whole, brief])):
        room = 3 * receipts.BRIEF_BYTES + size_of(whole) + spare
        monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", room)
        assert [each.receipt for each in results([draft()] * 3, View.COERCED)] == expected


def test_the_brief_results_of_a_batch_are_those_of_its_events_alone() -> None:
    """One message is copied for all of them: nothing of one event may stay for the next."""
    drafts = [draft(matches=2), draft(), draft(duplicate=True), draft(error=REFUSED), draft(matches=1), draft()]
    for number, made in enumerate(drafts):
        if made.event is not None and number % 2:
            made.event = msgspec.structs.replace(
                made.event,
                id=f"e{number}",
                position=number,
                revision=0,
                contact_id="",
                coercions=(),
                received_at=number * 1_000_001,
            )
        elif made.event is not None:
            made.event = msgspec.structs.replace(made.event, omitted_coercions=number)
    for order in (drafts, drafts[::-1]):
        for made, result in zip(order, results(order, View.RECEIPT), strict=True):
            assert result.WhichOneof("outcome") == ("receipt" if made.error is None else "error")
            if made.error is None:
                assert result.receipt == receipt(made, View.RECEIPT)


def test_receipts_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", 1)
    assert [each.receipt for each in results([draft()] * 2, View.RECEIPT)] == [receipt(draft(), View.RECEIPT)] * 2


REFUSED = InvalidArgument("x" * 200, violations=[Violation("name", "TOO_LARGE", "It is too large")])


def refused_results(count: int) -> Mapping[int, bool]:
    """Return by index whether the result of a refused event has its violations and its whole message."""
    found = results([draft(error=REFUSED) for _ in range(count)], View.RECEIPT)
    for each in found:
        detailed = bool(each.error.violations)
        assert each.error.reason == "INVALID_ARGUMENT"
        assert each.error.message == ("x" * 200 if detailed else "x" * 117 + "…")
    return {index: bool(each.error.violations) for index, each in enumerate(found)}


def test_the_violations_of_a_hundred_refused_events_are_reported() -> None:
    found = refused_results(102)
    assert [index for index, detailed in found.items() if not detailed] == [100, 101]


def test_violations_are_reported_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    size = size_of(write_error(REFUSED))
    for spare, detailed in ((0, [True, False, False]), (-1, [False] * 3), (size, [True, True, False])):
        monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", 3 * receipts.BRIEF_BYTES + size + spare)
        assert list(refused_results(3).values()) == detailed


def test_accepted_events_after_refused_ones_share_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    error_size, whole = size_of(write_error(REFUSED)), receipt(draft(), View.COERCED)
    drafts = [draft(error=REFUSED), draft()]
    for spare, fits in ((0, True), (-1, False)):
        room = 2 * receipts.BRIEF_BYTES + error_size + size_of(whole) + spare
        monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", room)
        first, second = results(drafts, View.COERCED)
        assert first.error.violations
        assert (second.receipt == whole, second.receipt.truncated) == (fits, not fits)


def test_an_error_is_written_with_its_code_and_violations() -> None:
    message = write_error(InvalidArgument.at("a.b", "TOO_LARGE", "a.b is too large"))
    assert plain(message) == {
        "code": 3,
        "reason": "INVALID_ARGUMENT",
        "message": "a.b is too large",
        "violations": [{"path": "a.b", "reason": "TOO_LARGE", "message": "a.b is too large"}],
    }
    assert (write_error(QueueFull()).code, list(write_error(QueueFull()).violations)) == (8, [])
    assert write_error(ValueError("secret")).message == "Internal error"


def test_an_empty_struct_is_set_all_the_same() -> None:
    message = event_message(with_properties({}))
    assert message.HasField("properties")
    assert message.properties == Struct()
