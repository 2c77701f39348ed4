"""Reading and writing the log of events, beside another project with events of the same names and contacts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import pytest_asyncio

from registry.coercion.report import Coercion, CoercionKind
from registry.log_ids import LogIds
from server.errors import EventNotFound
from server.model import Rules, UndefinedEvents, UnknownContacts
from server.storage.contacts import erase_contact, find_contact, insert_contact
from server.storage.events import appending as log
from server.storage.events import history
from server.storage.events import reading as store
from server.storage.events.history import NameRange
from server.storage.events.pages import list_events
from server.storage.events.reading import EventFilter
from server.storage.opening import open_database
from server.storage.projects.heads import Head, lock_heads, move_heads
from server.storage.projects.projects import insert_project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from sqlalchemy import Connection

    from server.model import Event
    from server.storage.database import Database
    from tests.support.stores import Store

T = TypeVar("T")

RULES = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE)
ADA, BOB = "ada@example.com", "bob@example.com"
CONVERTED = '[["properties.n","converted","1",1]]'

EVENTS = [
    ("paid", ADA, 10),
    ("seen", "", 20),
    ("paid", BOB, 20),
    ("paid", "", 20),
    ("seen", ADA, 30),
    ("paid", ADA, 40),
]
"""Name, address of the contact and time of receipt of the events at positions 1, 2 and so on.

Those without a contact have Ada's address. Each occurred 5 before.
"""


class Log:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.project = self.other = 0

    async def do(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return await self._database.write(lambda connection: work(connection, *arguments, **named))

    async def fill(self) -> Log:
        for name, key, id_time in (("own", "k", 1_000), ("other", "o", 2_000)):
            project = (await self.do(insert_project, name, name, RULES, 1)).pk
            contacts = [await self.do(insert_contact, project, f"{name}-{email}", email, {}, 1) for email in (ADA, BOB)]
            keys = {"": 0, **{contact.email: contact.key for contact in contacts}}
            ids = LogIds(id_time)
            rows = [
                (project, position, ids.make(position), event_name, "d", position, keys[email], "" if email else ADA,
                 f'{{"n":{position}}}', CONVERTED, at - 5, at, 0, f"{key}{position}", f"of-{key}{position}",
                 position % 2)
                for position, (event_name, email, at) in enumerate(EVENTS, start=1)
            ]  # fmt: skip
            await self.do(log.events.append, rows)
            head = {project: Head(len(EVENTS), EVENTS[-1][2], 0, 3)}
            await self.do(move_heads, head)
            if name == "own":
                self.project = project
            else:
                self.other = project
        return self

    async def listed(self, wanted: EventFilter, limit: int = 10, **place: int | None) -> tuple[list[int], bool]:
        named = {"before": None, "after": None} | place
        found, resume = await self.do(list_events, self.project, wanted, limit, **named)
        return positions(found), resume is not None

    async def event(self, position: int) -> Event:
        return (await self.do(store.events_at, self.project, [position]))[position]


@pytest_asyncio.fixture
async def recorded(database: Database) -> Log:
    """A log that its test may change."""
    return await Log(database).fill()


@pytest_asyncio.fixture(scope="module")
async def read_only(lasting_store: Store) -> AsyncIterator[Log]:
    """A log that no test changes."""
    database = await open_database(lasting_store.url)
    yield await Log(database).fill()
    await database.close()


def positions(found: Iterable[Event]) -> list[int]:
    return [event.position for event in found]


# Single events


async def test_an_event_is_found_by_its_whole_id_in_its_own_project(read_only: Log) -> None:
    event = await read_only.event(2)
    assert await read_only.do(store.get_event, read_only.project, event.id) == event
    (stranger,) = (await read_only.do(store.events_at, read_only.other, [2])).values()
    for unknown in (stranger.id, "", event.id[:-1] + ("0" if event.id[-1] != "0" else "1")):
        with pytest.raises(EventNotFound):
            await read_only.do(store.get_event, read_only.project, unknown)


async def test_what_was_stored_is_read(read_only: Log) -> None:
    event = await read_only.event(3)
    facts = (event.name, event.definition_id, event.revision, event.contact_id, event.email, event.properties)
    assert facts == ("paid", "d", 3, f"own-{BOB}", BOB, {"n": 3})
    assert (event.occurred_at, event.received_at, event.match_count, event.ignore_case) == (15, 20, 0, True)
    assert event.coercions == (Coercion("properties.n", CoercionKind.CONVERTED, "1", 1),)
    without = await read_only.event(4)
    assert (without.contact_id, without.email, without.contact_deleted, without.ignore_case) == ("", ADA, False, False)


async def test_parts_of_events_are_read_by_position(read_only: Log) -> None:
    async def read(reading: Callable[..., T]) -> T:
        return await read_only.do(reading, read_only.project, [2, 4, 99])

    events = await read(store.events_at)
    assert events.keys() == {2, 4}
    assert await read(store.event_ids) == {position: event.id for position, event in events.items()}
    assert await read(store.event_names) == {2: "seen", 4: "paid"}
    size = len('{"n":2}') + len(CONVERTED) + len("seen") + len(ADA)
    assert await read(store.event_sizes) == {2: size, 4: size}


async def test_events_are_found_by_idempotency_key_in_their_own_project(read_only: Log) -> None:
    found = await read_only.do(store.events_by_idempotency_key, read_only.project, ["k2", "o3", "x"])
    assert {key: (fingerprint, event.position) for key, (fingerprint, event) in found.items()} == {"k2": ("of-k2", 2)}


async def test_an_erased_contact_leaves_no_address_in_its_own_projects_log(recorded: Log) -> None:
    ada = await recorded.do(find_contact, recorded.project, email=ADA)
    await recorded.do(erase_contact, recorded.project, ada, "", 50)
    facts = [(event.email, event.contact_deleted) for event in [await recorded.event(at) for at in (1, 2, 3)]]
    assert facts == [("", True), ("", False), (BOB, False)]
    others = await recorded.do(store.events_at, recorded.other, [1, 2])
    assert [event.email for event in others.values()] == [ADA, ADA]


# Lists


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(), [6, 5, 4, 3, 2, 1]),
        (EventFilter(name="paid"), [6, 4, 3, 1]),
        (EventFilter(email=ADA), [6, 5, 4, 2, 1]),
        (EventFilter(email=BOB), [3]),
        (EventFilter(email="x@example.com"), []),
        (EventFilter(contact_id=f"own-{ADA}"), [6, 5, 1]),
        (EventFilter(contact_id=f"other-{ADA}"), []),
        (EventFilter(name="paid", email=ADA), [6, 4, 1]),
        (EventFilter(received_from=20), [6, 5, 4, 3, 2]),
        (EventFilter(received_from=21), [6, 5]),
        (EventFilter(received_until=20), [1]),
        (EventFilter(received_until=21), [4, 3, 2, 1]),
        (EventFilter(received_from=20, received_until=30), [4, 3, 2]),
        (EventFilter(received_from=41), []),
        (EventFilter(received_until=10), []),
        (EventFilter(occurred_from=15), [6, 5, 4, 3, 2]),
        (EventFilter(occurred_from=16), [6, 5]),
        (EventFilter(occurred_until=15), [1]),
        (EventFilter(occurred_until=16), [4, 3, 2, 1]),
        (EventFilter(email=ADA, received_from=20, received_until=40), [5, 4, 2]),
    ],
)
async def test_events_are_listed_from_both_ends(read_only: Log, wanted: EventFilter, expected: list[int]) -> None:
    assert await read_only.listed(wanted) == (expected, False)
    oldest_first = expected[::-1]
    assert await read_only.listed(wanted, after=0) == (oldest_first, False)
    if len(expected) > 1:
        assert await read_only.listed(wanted, len(expected), before=None) == (expected, False)
        assert await read_only.listed(wanted, len(expected) - 1) == (expected[:-1], True)
        assert await read_only.listed(wanted, before=expected[0]) == (expected[1:], False)
        assert await read_only.listed(wanted, after=oldest_first[0]) == (oldest_first[1:], False)
        assert await read_only.listed(wanted, 1, after=oldest_first[0]) == (oldest_first[1:2], len(expected) > 2)


async def test_a_time_is_the_first_position_received_then_or_later(read_only: Log) -> None:
    found = [await read_only.do(store.position_at, read_only.project, time) for time in (0, 10, 11, 20, 21, 40, 41)]
    assert found == [1, 1, 2, 2, 5, 6, 7]


# A definition's traffic, and a range to test it on


async def test_a_range_of_a_name_is_not_changed_by_later_events(read_only: Log) -> None:
    async def found(wanted: EventFilter, newest: int = 0) -> NameRange:
        return await read_only.do(history.name_range, read_only.project, wanted, newest)

    paid = EventFilter(name="paid")
    assert await found(paid) == NameRange("paid", 1, 7, 4, 6)
    assert await found(paid, 2) == NameRange("paid", 4, 7, 2, 6)
    assert await found(replace(paid, received_from=20, received_until=40)) == NameRange("paid", 3, 6, 2, 6)
    assert await found(replace(paid, received_until=99)) == NameRange("paid", 1, 7, 4, 6)
    assert await found(EventFilter(name="x")) == NameRange("x", 7, 7, 0, 6)


async def test_recorded_payloads_are_read_after_a_position(read_only: Log) -> None:
    within = NameRange("paid", 1, 6, 3, 6)
    payloads = await read_only.do(history.recorded_payloads, read_only.project, within, 0, 10)
    assert [payload.position for payload in payloads] == [1, 3, 4]
    assert [payload.sent() for payload in payloads[:2]] == [{"n": "1"}] * 2
    assert (payloads[1].id, payloads[1].revision) == ((await read_only.event(3)).id, 3)
    for after, limit, expected in ((1, 10, [3, 4]), (3, 10, [4]), (0, 2, [1, 3]), (4, 10, [])):
        page = await read_only.do(history.recorded_payloads, read_only.project, within, after, limit)
        assert [payload.position for payload in page] == expected


# Heads


async def test_heads_are_read_and_moved_by_project(recorded: Log) -> None:
    def heads(connection: Connection, wanted: Sequence[int]) -> dict[int, tuple[int, int, int]]:
        locked = lock_heads(connection, wanted)
        return {key: (head.position, head.received_at, head.match_position) for key, head in locked.items()}

    both = [recorded.other, recorded.project]
    assert await recorded.do(heads, both) == dict.fromkeys(both, (6, 40, 3))
    await recorded.do(move_heads, {recorded.project: Head(8, 50, 0, 4)})
    assert await recorded.do(heads, both) == {recorded.project: (8, 50, 4), recorded.other: (6, 40, 3)}
    assert list(await recorded.do(heads, both)) == sorted(both)
    assert await recorded.do(store.log_head, recorded.project) == 8


async def test_a_lock_reads_the_ids_of_witnesses_where_history_can_be_lost(recorded: Log, database: Database) -> None:
    async def witness(position: int) -> str | None:
        heads = await recorded.do(lock_heads, [recorded.project], {recorded.project: position, recorded.other: 1})
        return heads[recorded.project].witness_id

    expected = (await recorded.event(3)).id if database.shared else None
    assert [await witness(position) for position in (3, 7)] == [expected, None]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
async def test_any_number_of_rows_is_appended(recorded: Log, count: int) -> None:
    ids = LogIds(3_000)
    rows = [
        (recorded.project, position, ids.make(position), "many", "", 0, 0, "", "{}", "", 0, 50, 0, "", "", 0)
        for position in range(7, 7 + count)
    ]
    await recorded.do(log.events.append, rows)
    await recorded.do(move_heads, {recorded.project: Head(6 + count, 50, 0, 3)})
    found, more = await recorded.listed(EventFilter(name="many"), 1_000, after=0)
    assert (found, more) == ([*range(7, 7 + count)], False)
