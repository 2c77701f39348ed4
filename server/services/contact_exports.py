"""Exports of everything that is stored about a person."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from automation.automation_store import automation_ids
from automation.deletion.erasing import runs_of_contact
from automation.exporting import all_matches_of_events, runs_at
from server.errors import ContactNotFound
from server.services.refused_of_person import refused_of_person
from server.storage.contacts import find_contact
from server.storage.erasures.steps import READ_EVENTS, events_of, find_person
from server.storage.events.reading import event_sizes, events_at, in_portions, log_head
from server.storage.projects.heads import match_positions
from server.storage.quarantine.refused_events import RefusedEvent, read_refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import Connection

    from automation.matches import Match
    from automation.runs import Run
    from server.model import Contact, Event
    from server.services.contacts import ContactRef
    from server.storage.database import Database
    from server.storage.erasures.steps import Person

LOADED_ROWS: Final = 100
LOADED_CHARACTERS: Final = 1_000_000
"""The most events or runs that an export holds at a time, and the most characters of events."""


@dataclass(frozen=True, slots=True)
class ExportedMatch:
    """A match, with the public id of its automation."""

    match: Match
    automation_id: str


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run, with the public id of its automation."""

    run: Run
    automation_id: str


@dataclass(frozen=True, slots=True)
class ExportEnd:
    """The end of an export: the position of the newest event when it began, and the numbers of records."""

    head: int
    events: int = 0
    matches: int = 0
    runs: int = 0
    refused_events: int = 0


@dataclass(frozen=True, slots=True)
class _Beginning:
    person: Person
    contact: Contact | None
    head: int
    match_head: int


Record: TypeAlias = "Contact | Event | ExportedMatch | ExportedRun | RefusedEvent | ExportEnd"


class ContactExports:
    """Exports persons."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def export(self, project_pk: int, ref: ContactRef) -> AsyncIterator[Record]:
        """Yield the contact, its events, each with its matches after it, its runs, its refused events, and the end.

        Events, matches and runs that are recorded after the first read are left out. Raise ContactNotFound if nothing
        is stored.
        """
        read = self._database.read
        began = await read(partial(_begin, project_pk, ref))
        end = ExportEnd(began.head)
        if began.contact is not None:
            yield began.contact
        position = 0
        while positions := await read(partial(_positions, project_pk, began, position)):
            position = positions[-1]
            sizes = await read(partial(_sizes, project_pk, positions))
            for some in in_portions(positions, sizes, LOADED_ROWS, LOADED_CHARACTERS):
                events, matches = await read(partial(_events, project_pk, began, some))
                for event in events:
                    yield event
                    for match in matches.get(event.position, ()):
                        yield match
                    end = replace(
                        end, events=end.events + 1, matches=end.matches + len(matches.get(event.position, ()))
                    )
        number = 0
        while runs := await read(partial(_runs, project_pk, began, number)):
            for run in runs:
                yield run
            number = runs[-1].run.number
            end = replace(end, runs=end.runs + len(runs))
        async for refused in self._refused(project_pk, began.person):
            yield refused
            end = replace(end, refused_events=end.refused_events + 1)
        if not began.person.contact_id and not end.events and not end.refused_events:
            raise ContactNotFound(ref.id or ref.email)
        yield end

    async def _refused(self, project_pk: int, person: Person) -> AsyncIterator[RefusedEvent]:
        async for found in refused_of_person(self._database, project_pk, person.contact_id, person.email):
            # Not the damaged ones: they may be about somebody else.
            for refused_id in found.ids:
                # One at a time: each may be as large as a request.
                for refused in await self._database.read(partial(_read_refused, project_pk, refused_id)):
                    yield refused


def _begin(project_pk: int, ref: ContactRef, connection: Connection) -> _Beginning:
    person = find_person(connection, project_pk, contact_id=ref.id, email=ref.email)
    contact = None
    if person.contact_key and person.email:
        contact = find_contact(connection, project_pk, contact_id=person.contact_id)
    return _Beginning(
        person, contact, log_head(connection, project_pk), match_positions(connection, [project_pk]).get(project_pk, 0)
    )


def _positions(project_pk: int, began: _Beginning, after: int, connection: Connection) -> list[int]:
    return events_of(connection, project_pk, began.person, after, began.head, READ_EVENTS)


def _sizes(project_pk: int, positions: Sequence[int], connection: Connection) -> dict[int, int]:
    return event_sizes(connection, project_pk, positions)


def _events(
    project_pk: int, began: _Beginning, positions: Sequence[int], connection: Connection
) -> tuple[list[Event], dict[int, list[ExportedMatch]]]:
    """Return events in the order of positions, and their matches by event."""
    events = events_at(connection, project_pk, positions)
    found = all_matches_of_events(connection, project_pk, positions, began.match_head)
    ids = automation_ids(connection, {match.automation_key for each in found.values() for match in each})
    matches = {
        position: [ExportedMatch(match, ids.get(match.automation_key, "")) for match in each]
        for position, each in found.items()
    }
    return [events[position] for position in positions if position in events], matches


def _read_refused(project_pk: int, refused_id: str, connection: Connection) -> list[RefusedEvent]:
    return read_refused(connection, project_pk, [refused_id])


def _runs(project_pk: int, began: _Beginning, after: int, connection: Connection) -> list[ExportedRun]:
    if not began.person.contact_key:
        return []
    numbers = runs_of_contact(connection, began.person.contact_key, after, LOADED_ROWS)
    runs = runs_at(connection, project_pk, [number for number in numbers if number <= began.match_head])
    ids = automation_ids(connection, {run.automation_key for run in runs})
    return [ExportedRun(run, ids.get(run.automation_key, "")) for run in runs]
