"""Turns to use the connections of a database, shared fairly between projects."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from server.errors import ProjectBusy, StorageBusy
from server.sharing.current_project import SERVER, current_project
from server.storage.usage import ConnectionUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

    from server.sharing.fair_queue import FairTurns

TURN_SECONDS: Final = 10.0
"""How long a transaction waits for its turn. After that, an error serves the caller better."""


@asynccontextmanager
async def turn_for_project(turns: FairTurns, *, server_first: bool = False) -> AsyncIterator[None]:
    """Hold a turn for the current project while the context is open.

    With `server_first`, the server's own work goes before that of projects and has no share, because it serves all of
    them. Raise ProjectBusy after TURN_SECONDS, StorageBusy for the server's own work.
    """
    project = current_project()
    key: Hashable = object() if project is SERVER and server_first else project
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await turns.acquire(key, 0 if project is SERVER and server_first else 1)
    except TimeoutError:
        raise (StorageBusy() if project is SERVER else ProjectBusy(TURN_SECONDS)) from None
    try:
        yield
    finally:
        turns.release(key)


def use_of(turns: FairTurns) -> ConnectionUse:
    """Return the use of the connections that turns stand for."""
    return ConnectionUse(turns.size, turns.held, turns.waiting, turns.waits, turns.waited_seconds)
