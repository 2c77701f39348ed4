"""Following a project's log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from server.cli.client.errors import ServerAway
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.cli.client.session import Session
    from signalbox.v1 import event_pb2

POLL_SECONDS = 0.2
PAGE = 500


async def follow(session: Session, name: str, from_position: int | None) -> AsyncIterator[event_pb2.Event]:
    """Give events as they are recorded, from a position or from now on; of one name, if it is not empty.

    A server that goes away is waited for, with a notice on stderr; one that was never there is a ServerAway.
    """
    head = await _head(session)
    position = head if from_position is None else from_position - 1
    away = False
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
            if not away:
                click.echo(f"{session.connection.server} has gone; waiting for it", err=True)
            away = True
        else:
            if away:
                click.echo(f"{session.connection.server} is back", err=True)
            away = False
        await asyncio.sleep(POLL_SECONDS)


async def _head(session: Session) -> int:
    """Give the position of the newest event, 0 where there is none."""
    answer = await session.call(session.ingest.ListEvents, pb.ListEventsRequest(page_size=1))
    return answer.events[0].position if answer.events else 0


async def _after(session: Session, position: int, name: str) -> tuple[list[event_pb2.Event], bool]:
    """Give the next events behind a position, and whether there were no more at the time."""
    request = pb.ListEventsRequest(page_size=PAGE, name=name, after_position=position)
    answer = await session.call(session.ingest.ListEvents, request)
    return list(answer.events), not answer.next_page_token
