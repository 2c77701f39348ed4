"""Erases persons.

An erasure is stored by its first transaction (`server.storage.erasures.steps`), and goes on in small ones, with pauses
in between, so that a send waits for one of them at most. It is a task of the server, not of the call that began it: a
caller who leaves does not stop it, and a second caller waits for the same task. After a crash, `resume` continues it,
on whichever server finds it first. Two servers may take its steps at once: each locks the row and sees what is done.

    before the first commit    nothing is erased
    after it                   the contact is gone, its events are read as erased, its matches are not delivered
    until the last one         runs, events and deliveries are erased, in the order of their positions, and what the
                               audit log has of the contact
    after it                   the response: nothing is stored about the person
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from automation.bulk import chunks
from automation.deletion.erasing import count_open_runs, deliveries_of_events, runs_of_contact
from registry.times.timestamps import now_micros
from server.audit.audited_changes import AuditedChanges, AuditedValues
from server.current_call.context import as_server
from server.delivery.recent_matches import HELD_SECONDS, RECENT_SECONDS
from server.errors import KeyInvalid
from server.process.futures import mark_retrieved
from server.process.recurring import SETTLING_SECONDS, Recurring, try_each
from server.services.quarantine import delete
from server.services.refused_of_person import refused_of_person
from server.sharing.current_project import SERVER, work_for
from server.storage import contacts
from server.storage.audit_entries import entries_of_person, erase_contents, erase_request_ids
from server.storage.damaged_text import reading_damaged_text, to_valid_text
from server.storage.erasures.steps import (
    READ_EVENTS,
    begin_erasure,
    end_erasure,
    erase_events_to,
    erase_runs_to,
    events_of,
    find_person,
    overwriting,
    pending_erasures,
)
from server.storage.events.reading import event_sizes, in_portions, log_head
from server.storage.paced_writes import write_paced
from server.storage.projects.projects import project_by_pk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from automation.deletion.erasing import ErasedRuns
    from server.audit.audited_changes import AuditRecorder
    from server.logs.outages import Outages
    from server.services.contacts import ContactRef
    from server.storage.audit_entries import EntriesOfPerson
    from server.storage.database import Database
    from server.storage.erasures.steps import PendingErasure, Person

T = TypeVar("T")

log = structlog.get_logger()

PORTION_ROWS: Final = 100
"""The most events or runs that one transaction erases: it takes a few milliseconds."""

PORTION_CHARACTERS: Final = 500_000
"""The most characters of events that one transaction erases, unless a single one has more."""

LOOK_SECONDS: Final = 5.0
"""The interval at which interrupted erasures are looked for. One that another server began counts as such after it."""

RECENT_MARGIN: Final = 0.25
"""Added to the time for which other servers deliver matches from memory."""


@dataclass(frozen=True, slots=True)
class Erased:
    """The numbers of what was erased, or would be. `contact_id` is empty if no contact has the address."""

    contact_id: str = ""
    events: int = 0
    runs: int = 0
    cancelled_runs: int = 0
    dropped_deliveries: int = 0
    refused_events: int = 0


class Erasures:
    """Erases persons, and continues erasures that were interrupted."""

    def __init__(
        self,
        database: Database,
        on_erased: Callable[[int], object],
        outages: Outages,
        changes: AuditedChanges | None = None,
    ) -> None:
        """`on_erased` is called with the `project_pk` once a contact of a project is erased."""
        self._database = database
        self._changes = changes or AuditedChanges(database)
        self._on_erased = on_erased
        self._tasks: dict[int, asyncio.Task[Erased]] = {}
        self._recurring = Recurring("erasures", self.resume, outages, wait_seconds=SETTLING_SECONDS)

    def start(self) -> None:
        """Start continuing erasures that were interrupted."""
        self._recurring.start()

    async def close(self) -> None:
        """Stop, even between two transactions of an erasure: the next start continues there."""
        await self._recurring.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def erase(self, project_pk: int, ref: ContactRef) -> Erased:
        """Erase a person. Return what was erased since this call. Raise ContactNotFound for an unknown id."""
        began = monotonic()
        person, task = await self._begin(project_pk, ref)
        if task is None and await self._has_refused_events(project_pk, person):
            person, task = await self._begin(project_pk, ref, has_refused_events=True)
        erased = Erased() if task is None else await asyncio.shield(task)
        if self._database.shared and erased.runs:
            # Other servers may still have its newest matches in memory, and hold them for a while.
            await asyncio.sleep(began + RECENT_SECONDS + HELD_SECONDS + RECENT_MARGIN - monotonic())
        return replace(erased, contact_id=person.contact_id)

    async def _begin(
        self, project_pk: int, ref: ContactRef, *, has_refused_events: bool = False
    ) -> tuple[Person, asyncio.Task[Erased] | None]:
        """Begin an erasure or find it in progress, as `begin_erasure` does. Return its task."""
        task: asyncio.Task[Erased] | None = None

        def begin_recorded(connection: Connection, record: AuditRecorder) -> tuple[Person, PendingErasure | None]:
            person, pending = begin_erasure(
                connection, project_pk, ref.id, ref.email, now_micros(), has_refused_events=has_refused_events
            )
            if pending is not None:
                record(connection, project_pk, None, AuditedValues("contact", person.contact_id, {"erased": True}))
            return person, pending

        def begun(found: tuple[Person, PendingErasure | None]) -> None:
            nonlocal task
            _, pending = found
            self._on_erased(project_pk)
            if pending is not None:
                task = self._task(pending)

        person, _ = await self._changes.write("EraseContact", begin_recorded, begun)
        return person, task

    async def _has_refused_events(self, project_pk: int, person: Person) -> bool:
        """Return whether refused events are about a person of whom nothing is recorded."""
        async for found in refused_of_person(self._database, project_pk, person.contact_id, person.email):
            if found.ids or found.damaged:
                return True
        return False

    async def preview(self, project_pk: int, ref: ContactRef) -> Erased:
        """Return what would be erased. Raise ContactNotFound for an unknown id."""
        read = self._database.read
        person = await read(lambda connection: find_person(connection, project_pk, contact_id=ref.id, email=ref.email))
        head = await read(lambda connection: log_head(connection, project_pk))
        erased, position, number = Erased(person.contact_id), 0, 0
        while positions := await read(partial(_next_events, project_pk, person, position, head)):
            position = positions[-1]
            drop = await read(partial(_deliveries, project_pk, positions))
            erased = replace(
                erased, events=erased.events + len(positions), dropped_deliveries=erased.dropped_deliveries + drop
            )
        while person.contact_key and (numbers := await read(partial(_next_runs, person.contact_key, number))):
            number = numbers[-1]
            cancel = await read(partial(_open_runs, project_pk, numbers))
            erased = replace(erased, runs=erased.runs + len(numbers), cancelled_runs=erased.cancelled_runs + cancel)
        async for found in refused_of_person(self._database, project_pk, person.contact_id, person.email):
            erased = replace(erased, refused_events=erased.refused_events + len(found.ids) + len(found.damaged))
        return erased

    async def resume(self) -> float:
        """Continue the erasures that no server continues. Return the seconds until the next look."""
        work_for(SERVER)
        stale = now_micros() - round(LOOK_SECONDS * 1_000_000)
        pending = await self._database.read(pending_erasures, brief=True)
        left = [each for each in pending if each.updated_at < stale or not self._database.shared]
        await try_each([each for each in left if each.key not in self._tasks], self._continue)
        return LOOK_SECONDS

    async def _continue(self, erasure: PendingErasure) -> None:
        log.info("erasure_resumed", position=erasure.position, until=erasure.until_position)
        # The erasure of a project that was deleted meanwhile goes with its rows.
        with suppress(KeyInvalid):
            await self._task(erasure)

    def _task(self, erasure: PendingErasure) -> asyncio.Task[Erased]:
        """Return the task of an erasure; start one if there is none."""
        task = self._tasks.get(erasure.key)
        if task is None:
            task = self._tasks[erasure.key] = asyncio.create_task(self._run(erasure), name="erase")
            task.add_done_callback(lambda _: self._tasks.pop(erasure.key, None))
            # Its caller may have gone. If it fails, it is resumed.
            task.add_done_callback(mark_retrieved)
        return task

    async def _run(self, erasure: PendingErasure) -> Erased:
        as_server()
        work_for(erasure.project_pk)
        erased = await self._erase_runs(erasure, Erased())
        erased = await self._erase_events(erasure, erased)
        erased = replace(erased, refused_events=await self._erase_refused(erasure))
        await self._erase_entries(erasure)
        await self._write(lambda connection: end_erasure(connection, erasure))
        return erased

    async def _erase_runs(self, erasure: PendingErasure, erased: Erased) -> Erased:
        after = erasure.run_number
        while erasure.contact_key and (
            numbers := await self._database.read(partial(_next_runs, erasure.contact_key, after))
        ):
            after = numbers[-1]
            for some in chunks(numbers, PORTION_ROWS):
                step = await self._write(partial(_erase_runs, erasure, some))
                erased = replace(
                    erased, runs=erased.runs + step.runs, cancelled_runs=erased.cancelled_runs + step.cancelled
                )
        return erased

    async def _erase_events(self, erasure: PendingErasure, erased: Erased) -> Erased:
        project_pk, after = erasure.project_pk, erasure.position
        while positions := await self._database.read(
            partial(_next_events, project_pk, erasure, after, erasure.until_position)
        ):
            after = positions[-1]
            sizes = await self._database.read(partial(_sizes, project_pk, positions))
            for some in in_portions(positions, sizes, PORTION_ROWS, PORTION_CHARACTERS):
                events, dropped = await self._write(partial(_erase_events, erasure, some))
                erased = replace(
                    erased, events=erased.events + events, dropped_deliveries=erased.dropped_deliveries + dropped
                )
        return erased

    async def _erase_entries(self, erasure: PendingErasure) -> None:
        """Erase the contact in the audit log: the names of its properties, and the address in request IDs."""
        project_id, contact_id = await self._database.read(partial(_contact_of, erasure))
        after, more = "", True
        while more:
            found = await self._database.read(partial(_entries, project_id, contact_id, erasure.email, after))
            for erase, ids in ((erase_contents, found.about), (erase_request_ids, found.addressed)):
                for some in chunks(ids, PORTION_ROWS):
                    await self._write(partial(_overwrite, erase, some))
            after, more = found.last, found.last != ""

    async def _erase_refused(self, erasure: PendingErasure) -> int:
        """Delete the refused events that name the person, have the address anywhere, or are damaged and might."""
        contact_id = await self._database.read(partial(contacts.contact_id, key=erasure.contact_key))
        deleted = 0
        async for found in refused_of_person(self._database, erasure.project_pk, contact_id, erasure.email):
            for some in chunks(found.ids + found.damaged, PORTION_ROWS):
                deleted += await self._write(partial(_delete_refused, erasure.project_pk, some))
            if found.damaged:
                log.warning(
                    "damaged_refused_events_erased", count=len(found.damaged), ids=[*map(to_valid_text, found.damaged)]
                )
        return deleted

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await write_paced(self._database, work)


def _next_events(
    project_pk: int, person: Person | PendingErasure, after: int, until: int, connection: Connection
) -> list[int]:
    return events_of(connection, project_pk, person, after, until, READ_EVENTS)


def _next_runs(contact_key: int, after: int, connection: Connection) -> Sequence[int]:
    return runs_of_contact(connection, contact_key, after, READ_EVENTS)


def _deliveries(project_pk: int, positions: Sequence[int], connection: Connection) -> int:
    return sum(map(len, deliveries_of_events(connection, project_pk, positions).values()))


def _open_runs(project_pk: int, numbers: Sequence[int], connection: Connection) -> int:
    return count_open_runs(connection, project_pk, numbers)


def _sizes(project_pk: int, positions: Sequence[int], connection: Connection) -> dict[int, int]:
    return event_sizes(connection, project_pk, positions)


def _delete_refused(project_pk: int, ids: Sequence[str], connection: Connection) -> int:
    with overwriting(connection):
        return delete(connection, project_pk, ids)


def _erase_runs(erasure: PendingErasure, numbers: Sequence[int], connection: Connection) -> ErasedRuns:
    return erase_runs_to(connection, erasure, numbers, now_micros())


def _erase_events(erasure: PendingErasure, positions: Sequence[int], connection: Connection) -> tuple[int, int]:
    return erase_events_to(connection, erasure, positions, now_micros())


def _contact_of(erasure: PendingErasure, connection: Connection) -> tuple[str, str]:
    """Return the ids of the project and of the contact, which is empty if there is none."""
    project_id = project_by_pk(connection, erasure.project_pk).id
    return project_id, contacts.contact_id(connection, erasure.contact_key)


def _entries(project_id: str, contact_id: str, email: str, after: str, connection: Connection) -> EntriesOfPerson:
    with reading_damaged_text(connection):
        return entries_of_person(connection, project_id, contact_id, email, after)


def _overwrite(
    erase: Callable[[Connection, Sequence[str]], None], entry_ids: Sequence[str], connection: Connection
) -> None:
    with overwriting(connection):
        erase(connection, entry_ids)
