"""Lists with filters that no index covers: their pages together have exactly the items that pass the filters."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from signalbox.v1 import audit_pb2, automations_pb2, contacts_pb2, event_ingest_pb2, match_stream_pb2, refusals_pb2
from tests.support.automations import automate, complete, list_runs
from tests.support.consumers import acknowledge, pull, subscribe
from tests.support.list_filters import examine_at_most, filters_of, lists, singles_and_pairs
from tests.support.messages import ADA, BOB, ORDER, event
from tests.support.quarantine import KEEP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tests.support.service import Client, Service
    from tests.support.stores import Backend

pytestmark = pytest.mark.lasting

NOBODY = "nobody@example.com"
OTHER = "other"
LATE = "late@example.com"
EVENTS = 24
NOON = 1_700_000_000


@pytest.fixture(scope="module", autouse=True)
def little_is_examined() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        examine_at_most(patch, 3, 7)
        yield


@pytest.fixture
def together(backend: Backend) -> int:
    """The most filters that are tried together; over both databases they are conditions of the same statement."""
    return 2 if backend.name == "sqlite" else 1


def filters_together(
    request: Any, values: Mapping[str, Sequence[Any]], together: int, **always: Any
) -> Iterator[dict[str, Any]]:
    """Yield no filter, each value of each filter, and pairs of them if two are tried together."""
    for filters in singles_and_pairs(request.DESCRIPTOR, values, always):
        if len(filters) - len(always) <= together:
            yield filters


def names_together(names: Iterable[str], together: int) -> Iterator[tuple[str, str]]:
    """Yield each name twice, and pairs of them if two are tried together."""
    return ((one, other) for one, other in combinations_with_replacement(names, 2) if one == other or together == 2)


def seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9


async def pages(call: Callable[..., Any], request: Any, field: str) -> list[Any]:
    """Read a list to its end; a page has at most the requested number of items."""
    found: list[Any] = []
    for _ in range(1_000):
        page = await call(request)
        items = list(getattr(page, field))
        assert len(items) <= request.page_size
        found += items
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
    raise AssertionError("the list does not end")


async def fill(shop: Client) -> None:
    people = (ADA, LATE, NOBODY, LATE)
    sent = [
        event(
            name=ORDER if number % 3 else OTHER,
            email=people[number % 4],
            occurred_at=NOON + number * (-1) ** number,
        )
        for number in range(EVENTS)
    ]
    for half in (sent[: EVENTS // 2], sent[EVENTS // 2 :]):
        results = await shop.send_all(half)
        assert not [result for result in results if result.HasField("error")]
        # Only the second half has events of this address with a contact.
        await shop.upsert(LATE)


async def test_events_of_all_pages_are_those_of_the_filters(service: Any, together: int) -> None:
    shop = await service.shop(
        unknown_contacts="UNKNOWN_CONTACTS_CREATE_ON_MATCH", undefined_events="UNDEFINED_EVENTS_ACCEPT"
    )
    await fill(shop)
    log = await shop.log()
    assert len(log) == EVENTS
    ada = next(each for each in log if each.email == ADA).contact_id
    middle = log[EVENTS // 2].received_at
    late, early = Timestamp(seconds=NOON + 10), Timestamp(seconds=NOON - 10)
    values: dict[str, list[Any]] = {
        "name": [ORDER, "never"],
        "contact_id": [ada],
        "email": [LATE, NOBODY, "never@example.com"],
        "received_from": [middle],
        "received_until": [middle],
        "occurred_from": [late],
        "occurred_until": [early],
        "after_position": [0, EVENTS // 2],
    }
    request = event_ingest_pb2.ListEventsRequest
    assert set(values) == filters_of(request.DESCRIPTOR)
    passes: dict[str, Callable[[Any, Any], bool]] = {
        "name": lambda each, name: each.name == name,
        "contact_id": lambda each, contact_id: each.contact_id == contact_id,
        "email": lambda each, email: each.email == email,
        "received_from": lambda each, time: seconds(each.received_at) >= seconds(time),
        "received_until": lambda each, time: seconds(each.received_at) < seconds(time),
        "occurred_from": lambda each, time: seconds(each.occurred_at) >= seconds(time),
        "occurred_until": lambda each, time: seconds(each.occurred_at) < seconds(time),
        "after_position": lambda each, position: each.position > position,
    }
    for filters in filters_together(request, values, together):
        expected = [each.position for each in log if all(passes[name](each, filters[name]) for name in filters)]
        found = await pages(shop.ingest.ListEvents, request(page_size=4, **filters), "events")
        in_order = expected if "after_position" in filters else expected[::-1]
        assert [each.position for each in found] == in_order, filters


async def test_runs_of_all_pages_are_those_of_the_filters(shop: Client, together: int) -> None:
    await shop.upsert(BOB)
    automations = [await automate(shop), await automate(shop)]
    for number in range(10):
        await shop.send(event(email=BOB if number % 5 == 0 else ADA))
    for run in (await list_runs(shop, page_size=1_000))[3::4]:
        await complete(shop, run)
    runs = await list_runs(shop, page_size=1_000)
    assert len(runs) == 20
    values: dict[str, list[Any]] = {
        "statuses": [[automations_pb2.RUN_STATUS_COMPLETED], [automations_pb2.RUN_STATUS_WAITING]],
        "automation_id": [automations[0].id],
        "contact_id": [runs[0].contact_id],
        "email": [BOB],
    }
    request = automations_pb2.ListRunsRequest
    assert set(values) == filters_of(request.DESCRIPTOR)
    bob = (await shop.contacts.GetContact(contacts_pb2.GetContactRequest(email=BOB))).contact.id
    passes: dict[str, Callable[[Any, Any], bool]] = {
        "statuses": lambda run, statuses: run.status in statuses,
        "automation_id": lambda run, automation_id: run.automation_id == automation_id,
        "contact_id": lambda run, contact_id: run.contact_id == contact_id,
        "email": lambda run, _: run.contact_id == bob,
    }
    for filters in filters_together(request, values, together):
        expected = [run.id for run in runs if all(passes[name](run, filters[name]) for name in filters)]
        found = await pages(shop.automations.ListRuns, request(page_size=4, **filters), "runs")
        assert [run.id for run in found] == expected, filters


async def test_contacts_of_all_pages_are_those_of_the_search(shop: Client) -> None:
    emails = [f"{'blue' if number % 9 == 0 else 'red'}{number}@example.com" for number in range(25)]
    for email in emails:
        await shop.upsert(email)
    request = contacts_pb2.ListContactsRequest
    assert filters_of(request.DESCRIPTOR) == {"search"}
    for search in ("blue", "red", "never", ""):
        expected = [email for email in (ADA, *emails) if search in email][::-1]
        found = await pages(shop.contacts.ListContacts, request(page_size=4, search=search), "contacts")
        assert [contact.email for contact in found] == expected


async def test_parked_matches_of_all_pages_are_those_of_the_filters(shop: Client, together: int) -> None:
    automations = [await automate(shop), await automate(shop, condition="properties.order_total == 7.0")]
    await subscribe(shop)
    for number in range(12):
        await shop.send(event({"order_total": 7 if number in (3, 8) else 1}))
    for delivery in await pull(shop):
        nack = match_stream_pb2.NackDeliveries(
            delivery_ids=[delivery.delivery_id], action=match_stream_pb2.NACK_ACTION_PARK
        )
        await acknowledge(shop, nacks=[nack])
    request = match_stream_pb2.ListParkedMatchesRequest
    everything = await pages(
        shop.matches.ListParkedMatches, request(subscription="engine", page_size=4), "parked_matches"
    )
    assert len(everything) == 14
    middle = everything[7].parked_at
    values = {"automation_id": [automations[1].id, "never"], "parked_until": [middle]}
    assert set(values) == filters_of(request.DESCRIPTOR) - {"subscription"}
    passes: dict[str, Callable[[Any, Any], bool]] = {
        "automation_id": lambda parked, automation_id: parked.match.automation_id == automation_id,
        "parked_until": lambda parked, time: seconds(parked.parked_at) < seconds(time),
        "subscription": lambda *_: True,
    }
    for filters in filters_together(request, values, together, subscription="engine"):
        expected = [
            parked.match.id for parked in everything if all(passes[name](parked, filters[name]) for name in filters)
        ]
        found = await pages(shop.matches.ListParkedMatches, request(page_size=4, **filters), "parked_matches")
        assert [parked.match.id for parked in found] == expected, filters


async def test_refused_events_of_all_pages_are_those_of_the_filter(service: Service, together: int) -> None:
    shop = await service.shop(refused_events=KEEP)
    sent = [
        event({"order_total": "a lot"} if number % 3 else None, name=ORDER if number % 2 else OTHER, email=ADA)
        for number in range(1, 21)
    ]
    await shop.send_all(sent, event_ingest_pb2.BATCH_MODE_INDEPENDENT)
    request = refusals_pb2.ListRefusedEventsRequest
    everything = await pages(shop.quarantine.ListRefusedEvents, request(page_size=4), "refused_events")
    assert len(everything) == 17
    middle = everything[8].received_at
    passes: dict[str, tuple[Any, Callable[[refusals_pb2.RefusedEvent], bool]]] = {
        "name": (OTHER, lambda refused: refused.name == OTHER),
        "reason": ("PAYLOAD_REJECTED", lambda refused: refused.error.reason == "PAYLOAD_REJECTED"),
        "path": ("properties.order_total", lambda refused: bool(refused.error.violations)),
        "door": ("connect", lambda refused: refused.door == "connect"),
        "received_from": (middle, lambda refused: seconds(refused.received_at) >= seconds(middle)),
        "received_until": (middle, lambda refused: seconds(refused.received_at) < seconds(middle)),
    }
    assert set(passes) == set(refusals_pb2.RefusedEventFilter.DESCRIPTOR.fields_by_name)
    for one, other in names_together(passes, together):
        (value, passes_one), (other_value, passes_other) = passes[one], passes[other]
        wanted = refusals_pb2.RefusedEventFilter(**{one: value, other: other_value})
        expected = [refused.id for refused in everything if passes_one(refused) and passes_other(refused)]
        listing = request(filter=wanted, page_size=4)
        found = await pages(shop.quarantine.ListRefusedEvents, listing, "refused_events")
        assert [refused.id for refused in found] == expected, (one, other)
        dry = refusals_pb2.DiscardRefusedEventsRequest(filter=wanted, validate_only=True)
        count = 0
        while True:
            response = await shop.quarantine.DiscardRefusedEvents(dry)
            count += response.event_count
            dry.continue_after = response.continue_after
            if not response.continue_after:
                break
        assert count == len(expected), (one, other)


async def test_audit_entries_of_all_pages_are_those_of_the_filters(service: Service, together: int) -> None:
    shop = await service.by_requests().shop()
    other = await service.key(shop.project)
    for number in range(6):
        caller = other if number % 3 else shop
        await caller.define(f"event_{number}")
        await caller.upsert(f"p{number}@example.com")
        await automate(caller, f"event_{number}")
    request = audit_pb2.ListAuditEntriesRequest
    everything = await pages(shop.audit.ListAuditEntries, request(page_size=1_000), "entries")
    assert len(everything) >= 18
    middle = everything[len(everything) // 2]
    passes: dict[str, tuple[Any, Callable[[Any], bool]]] = {
        "project_id": (shop.project, lambda entry: entry.project_id == shop.project),
        "since": (middle.occurred_at, lambda entry: seconds(entry.occurred_at) >= seconds(middle.occurred_at)),
        "until": (middle.occurred_at, lambda entry: seconds(entry.occurred_at) < seconds(middle.occurred_at)),
        "key_id": (middle.key_id, lambda entry: entry.key_id == middle.key_id),
        "action": (middle.action, lambda entry: entry.action == middle.action),
        "resource_type": (middle.resource_type, lambda entry: entry.resource_type == middle.resource_type),
        "resource_id": (middle.resource_id, lambda entry: entry.resource_id == middle.resource_id),
    }
    assert set(passes) == set(audit_pb2.AuditFilter.DESCRIPTOR.fields_by_name)
    for one, two in names_together(passes, together):
        (value, passes_one), (other_value, passes_two) = passes[one], passes[two]
        expected = [entry.id for entry in everything if passes_one(entry) and passes_two(entry)]
        listing = request(filter=audit_pb2.AuditFilter(**{one: value, two: other_value}), page_size=4)
        found = await pages(shop.audit.ListAuditEntries, listing, "entries")
        assert [entry.id for entry in found] == expected, (one, two)


def test_every_list_of_the_contract_is_known_here() -> None:
    """A list that is not here needs a test: of its pages here, and of what they cost in `test_plans`."""
    tested = {"ListEvents", "ListRuns", "ListContacts", "ListParkedMatches", "ListRefusedEvents", "ListAuditEntries"}
    # Their tables are small: a project has at most 100 active definitions, and thousands of the others at most.
    small = {
        "ListEventDefinitions",
        "ListRevisions",
        "ListDependents",
        "ListAutomations",
        "ListSubscriptions",
        "ListProjects",
        "ListApiKeys",
        "ExplainEvent",
        "GetDescriptorSet",
    }
    assert tested | small == {*lists()}
