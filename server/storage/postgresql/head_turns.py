"""The order in which the transactions of one server lock the heads of projects on PostgreSQL.

PostgreSQL grants a lock in the order of requests. If a server froze while several of its transactions waited for the
same head, each of them would get the lock and hold it until PostgreSQL ended its idle session: one after the other, two
seconds each, while all other servers wait. So only one transaction of a server waits for a head in PostgreSQL; the
others wait for it in memory.

Every statement that locks a head takes its turn first. Otherwise a transaction could hold the lock and then wait for
the turn of one that waits for the lock, a deadlock that PostgreSQL cannot see. After WAIT_SECONDS in memory, a
transaction waits for the lock itself, because PostgreSQL would end its idle session.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

WAIT_SECONDS: Final = 1.0
"""The longest wait in memory: half of the time that a transaction may be idle."""

_TURN: Final = "signalbox.head_turn"


class HeadTurns:
    """The locks in memory of one server, by project."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def lock(self, project_pk: int) -> asyncio.Lock:
        """Return the lock of a project; it exists as long as a transaction holds or awaits it."""
        lock = self._locks.get(project_pk)
        if lock is None:
            lock = self._locks[project_pk] = asyncio.Lock()
        return lock


class HeadTurn:
    """The locks in memory that one transaction holds. They are released when the context is left, after its end."""

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
        """Register this turn with its connection, where `await_turn` finds it."""
        connection_info[_TURN] = self

    async def take(self, project_pks: Iterable[int]) -> None:
        """Wait for the locks of projects, for WAIT_SECONDS in all."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                for key in project_pks:
                    if key not in self._held:
                        lock = self._turns.lock(key)
                        await lock.acquire()
                        self._held[key] = lock


def await_turn(connection: Connection, project_pks: Iterable[int]) -> None:
    """Wait until no other transaction of this server locks the heads of these projects, given in ascending order."""
    turn: HeadTurn | None = connection.info.get(_TURN)
    if turn is not None:
        driver: Any = connection.connection
        driver.run_async(lambda _: turn.take(project_pks))
