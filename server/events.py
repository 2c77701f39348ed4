"""Reading the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.storage import events as store

if TYPE_CHECKING:
    from server.model import Event
    from server.paging import Page, PageRequest
    from server.storage.database import Database
    from server.storage.events import EventFilter


class Events:
    """Reads recorded events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, project_key: int, event_id: str) -> Event:
        """Read one event. Raises EventNotRecorded."""
        return await self._database.read(lambda connection: store.get_event(connection, project_key, event_id))

    async def list(
        self, project_key: int, wanted: EventFilter, request: PageRequest, after: int | None = None
    ) -> Page[Event]:
        """List events, newest first, or oldest first from behind the position `after`."""
        limit, filters = request.limit(), (project_key, wanted, after)
        (last,) = request.cursor(filters, int) or (None,)
        found, more = await self._database.read(
            lambda connection: store.list_events(
                connection,
                project_key,
                wanted,
                limit,
                before=last if after is None else None,
                after=after if after is None or last is None else last,
            )
        )
        return request.page(found, filters, lambda event: (event.position,), more=more)
