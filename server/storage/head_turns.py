"""The order in which the transactions of one server lock the heads of projects on PostgreSQL.

PostgreSQL grants a lock in the order of requests. If several transactions of a server waited for the same head while
the server froze, each would get it, and hold it until PostgreSQL ended its session for being idle: one after the other,
two seconds each, and every other server would wait for all of them. So one transaction of a server at a time waits for
a head; the others wait for that one in memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakValueDictionary

from server.errors import StorageBusy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

LOCK_SECONDS: Final = 5.0
"""The longest wait for another transaction of this server, as long as PostgreSQL's for one of another server."""

_TURN: Final = "signalbox.head_turn"


class HeadTurns:
    """The locks of one server, by project."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def lock(self, project_pk: int) -> asyncio.Lock:
        """Return the lock of a project; it exists as long as a transaction holds or awaits it."""
        lock = self._locks.get(project_pk)
        if lock is None:
            lock = self._locks[project_pk] = asyncio.Lock()
        return lock


class HeadTurn:
    """The locks that one transaction holds; they are released when the context is left, after its end."""

    def __init__(self, turns: HeadTurns) -> None:
        self._turns = turns
        self._held: dict[int, asyncio.Lock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lock in self._held.values():
            lock.release()
        self._held.clear()

    def belongs_to(self, connection_info: dict[Any, Any]) -> None:
        """Let `await_turn` find this turn by its connection."""
        connection_info[_TURN] = self

    async def take(self, project_pks: Iterable[int]) -> None:
        """Wait for the locks of projects. Raise StorageBusy after LOCK_SECONDS."""
        for key in project_pks:
            if key in self._held:
                continue
            lock = self._turns.lock(key)
            try:
                async with asyncio.timeout(LOCK_SECONDS):
                    await lock.acquire()
            except TimeoutError:
                raise StorageBusy from None
            self._held[key] = lock


def await_turn(connection: Connection, project_pks: Iterable[int]) -> None:
    """Wait until no other transaction of this server locks the heads of projects, named in ascending order."""
    turn: HeadTurn | None = connection.info.get(_TURN)
    if turn is not None:
        driver: Any = connection.connection
        driver.run_async(lambda _: turn.take(project_pks))
