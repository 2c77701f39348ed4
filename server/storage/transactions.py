"""The one place where store functions meet the async engines, of SQLite's reads and of PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


async def run_transaction(connection: AsyncConnection, work: Callable[[Connection], T]) -> T:
    """Run a store function in one transaction of a connection, in the event loop.

    The transaction begins and ends within `run_sync`: entering it costs as much as a statement by key.
    """

    def transact(plain: Connection) -> T:
        with plain.begin():
            return work(plain)

    return await connection.run_sync(transact)


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end even if the caller is cancelled meanwhile.

    A transaction cannot be called back once it runs, so what must follow it, such as emptying a cache, is awaited with
    it as one piece of work.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
