"""Following the event log of a project."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from server.cli.client.availability import Availability
from server.cli.errors import ServerAway
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.cli.client.session import Session
    from signalbox.v1 import event_pb2

POLL_SECONDS = 0.2
PAGE = 500


async def follow(session: Session, name: str, from_position: int | None) -> AsyncIterator[event_pb2.Event]:
    """Yield events as they are recorded, from `from_position` on or only new ones; with `name`, only of this name.

    Reconnect when the server goes away, with a notice on stderr. Raise ServerAway if it was never reached.
    """
    head = await _head(session)
    position = head if from_position is None else from_position - 1
    availability = Availability(session.connection.server)
    while True:
        try:
            head = await _head(session)
            while position < head:
                events, complete = await _after(session, position, name)
                for event in events:
                    yield event
                    position = event.position
                if complete:
                    position = max(position, head)
        except ServerAway:
            availability.lost()
        else:
            availability.found()
        await asyncio.sleep(POLL_SECONDS)


async def _head(session: Session) -> int:
    """Return the position of the newest event, 0 if there is none."""
    response = await session.call(session.ingest.ListEvents, pb.ListEventsRequest(page_size=1))
    return response.events[0].position if response.events else 0


async def _after(session: Session, position: int, name: str) -> tuple[list[event_pb2.Event], bool]:
    """Return the next events after a position, and whether these were all."""
    request = pb.ListEventsRequest(page_size=PAGE, name=name, after_position=position)
    response = await session.call(session.ingest.ListEvents, request)
    return list(response.events), not response.next_page_token
