"""Lists of the events of one contact, in a log of several segments."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from server.storage.contacts import insert_contacts
from server.storage.events.pages import list_events
from server.storage.events.reading import EventFilter
from server.storage.migrations import migrate
from server.storage.opening import open_database
from server.storage.tables import SEGMENT_BITS
from tests.support.plans import plans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.stores import Backend

# ruff: noqa: S608 - the statements are our own
SEGMENT: Final = 1 << SEGMENT_BITS
EVENTS: Final = 6 * SEGMENT - 1_000
EMAILS: Final = {
    "in half of all events": "n % 2 = 0",
    "in every segment": "n % 5001 = 0",
    "at the ends of segments": f"n % {SEGMENT} IN (0, {SEGMENT - 1})",
    "in the first and the last segment": f"n = 7 OR n = {EVENTS - 7}",
    "in bursts": f"n / {SEGMENT} IN (1, 4) AND n % 3 = 0",
    "in no event": "n < 0",
}
NAMES: Final = ("frequent", "rare")


class Log:
    """A log, and the positions in it by the address of the contact and the name of the event."""

    def __init__(self, database: Database, project_pk: int) -> None:
        self.database = database
        self.project_pk = project_pk
        self.expected: dict[tuple[str, str], list[int]] = defaultdict(list)

    def fill(self, connection: Connection) -> None:
        """Record events; those of nobody else are recorded without a contact."""
        connection.exec_driver_sql("INSERT INTO project_head VALUES (1, 0, 0, 0, 0, 0)")
        contacts = insert_contacts(connection, self.project_pk, [(each, each) for each in EMAILS], 1)
        cases = " ".join(f"WHEN {condition} THEN {contacts[email].key}" for email, condition in EMAILS.items())
        connection.exec_driver_sql(
            f"""WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {EVENTS}),
                placed(n, contact) AS (SELECT n, CASE {cases} ELSE 0 END FROM number)
            INSERT INTO event (project_key, position, id, name, definition_id, revision, contact_key, email,
                properties, coercions, occurred_at, received_at, match_count, idempotency_key, fingerprint, ignore_case)
            SELECT {self.project_pk}, n, '', CASE WHEN n % 11 = 0 THEN 'rare' ELSE 'frequent' END,
                '', 1, contact, CASE WHEN contact = 0 THEN 'nobody' ELSE '' END, '{{}}', '', n, n, 0, '', '', 0
            FROM placed"""
        )
        connection.exec_driver_sql(f"UPDATE project_head SET position = {EVENTS}")
        emails = {contact.key: contact.email for contact in contacts.values()} | {0: "nobody"}
        for position, name, key in connection.exec_driver_sql(
            "SELECT position, name, contact_key FROM event ORDER BY 1"
        ):
            self.expected[emails[key], name].append(position)
            self.expected[emails[key], ""].append(position)

    async def page(self, wanted: EventFilter, limit: int, **bounds: int | None) -> list[int]:
        """Return the positions of a page, or of several if the first ones are short."""
        bounds = {"before": None, "after": None, **bounds}
        positions: list[int] = []
        while len(positions) < limit:
            rest = limit - len(positions)
            arguments: dict[str, Any] = {"event_filter": wanted, "limit": rest, **bounds}
            work = partial(list_events, project_pk=self.project_pk, **arguments)
            events, resume = await self.database.read(work)
            positions += [event.position for event in events]
            if resume is None:
                break
            bounds["before" if bounds["after"] is None else "after"] = resume[0]
        return positions


@pytest_asyncio.fixture(scope="module")
async def log(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Log]:
    async with backend.empty(tmp_path_factory.mktemp("segments")) as store:
        database = await open_database(store.url)
        await migrate(database)
        filled = Log(database, 1)
        await database.write(filled.fill)
        if database.shared:
            await store.execute("ANALYZE")
        yield filled
        await database.close()


@pytest.mark.parametrize("limit", [50, 300])
@pytest.mark.parametrize("email", [*EMAILS, "nobody"])
async def test_a_page_has_the_next_events_of_the_contact(log: Log, email: str, limit: int) -> None:
    for name in ("", *NAMES):
        await check_pages(log, EventFilter(email=email, name=name), limit)


async def check_pages(log: Log, wanted: EventFilter, limit: int) -> None:
    expected = log.expected[wanted.email, wanted.name]
    assert await log.page(wanted, limit) == expected[::-1][:limit]
    assert await log.page(wanted, limit, after=0) == expected[:limit]
    for start in (1, SEGMENT, 3 * SEGMENT - 1):
        earlier, later = expected[: bisect_left(expected, start)], expected[bisect_right(expected, start) :]
        assert await log.page(wanted, limit, before=start) == earlier[::-1][:limit]
        assert await log.page(wanted, limit, after=start) == later[:limit]


async def test_times_of_receipt_bound_the_events_of_a_contact(log: Log) -> None:
    low, high = SEGMENT + 5, 4 * SEGMENT + 5
    wanted = EventFilter(email="in every segment", received_from=low, received_until=high)
    assert await log.page(wanted, 100) == [
        each for each in log.expected["in every segment", ""][::-1] if low <= each < high
    ]


@pytest.mark.parametrize("name", ["", "rare"])
@pytest.mark.parametrize("email", EMAILS)
async def test_events_of_a_contact_are_found_by_the_index(log: Log, email: str, name: str) -> None:
    with plans("event") as noted:
        await log.page(EventFilter(email=email, name=name), 50)
    assert noted.scans == []
    if not log.database.shared:
        assert "event_by_segment_and_contact" in noted.used
        assert len(noted.statements) < 20
