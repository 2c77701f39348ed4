"""Recorded events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.errors import CursorRewound
from server.storage.events import reading as store
from server.storage.events.pages import list_events

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from server.model import Event
    from server.paging import Page, PageRequest
    from server.storage.database import Database
    from server.storage.events.pages import EventPage
    from server.storage.events.reading import EventFilter


class Events:
    """Reads recorded events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, project_pk: int, event_id: str) -> Event:
        """Read one event. Raise EventNotFound."""
        return await self._database.read(lambda connection: store.get_event(connection, project_pk, event_id))

    async def list(
        self, project_pk: int, event_filter: EventFilter, request: PageRequest, after: int | None = None
    ) -> Page[Event]:
        """List events, newest first, or oldest first after the position `after`; a page may be short.

        Raise CursorRewound if a page, oldest first, continues from an event that was lost in a failover or a restore.
        """
        limit, filters = request.limit(), ("events", project_pk, event_filter, after)
        last, last_id = request.cursor(filters, int, str) or (None, "")

        def read(connection: Connection) -> EventPage:
            if after is None:
                return list_events(connection, project_pk, event_filter, limit, before=last, after=None)
            if last_id:
                _check_kept(connection, project_pk, last, last_id)
            return list_events(connection, project_pk, event_filter, limit, before=None, after=last or after)

        found, resume = await self._database.read(read)
        return request.page(
            found, filters, lambda event: (event.position, event.id), more=resume is not None, resume=resume
        )


def _check_kept(connection: Connection, project_pk: int, position: int, event_id: str) -> None:
    """Raise CursorRewound unless the log is still the one in which the event was recorded, deleted since or not."""
    found = store.event_ids(connection, project_pk, [position]).get(position)
    if found != event_id and not store.is_deleted(connection, project_pk, position):
        raise CursorRewound(position, store.log_head(connection, project_pk))
