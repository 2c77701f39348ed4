"""Transactions that are held back before or after their commit, on either database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from server.storage.postgresql.database import PostgresDatabase
from server.storage.sqlite.database import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest


class HeldWrite:
    """Holds back the first transaction that `holds` accepts, from `reached` until `go` is set, then sets `ended`.

    It is committed by then, but its result is not known; with `uncommitted`, it has not begun.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, holds: Callable[[Any], bool], *, uncommitted: bool = False
    ) -> None:
        """`holds` is called with the work of each transaction, in the task that waits for it."""
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = asyncio.Event()
        self._holds = holds
        self._uncommitted = uncommitted
        for kind in (SqliteDatabase, PostgresDatabase):
            monkeypatch.setattr(kind, "write", self._held(kind.write))

    def again(self) -> None:
        """Hold another transaction."""
        self.reached.clear()
        self.go.clear()
        self.ended.clear()

    def _held(self, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def held(database: Any, work: Any) -> Any:
            holds = not self.reached.is_set() and self._holds(work)
            if holds and self._uncommitted:
                self.reached.set()
                await self.go.wait()
            result = await write(database, work)
            if holds and not self._uncommitted:
                self.reached.set()
                await self.go.wait()
            if holds:
                self.ended.set()
            return result

        return held
