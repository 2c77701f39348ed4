"""The one place where store functions meet the async engines, of SQLite's reads and of PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


async def run_transaction(connection: AsyncConnection, work: Callable[[Connection], T]) -> T:
    """Run a store function in one transaction of a connection.

    The transaction begins and ends within one `run_sync`: each one switches greenlets and costs tens of microseconds.
    """

    def transact(plain: Connection) -> T:
        with plain.begin():
            return work(plain)

    return await connection.run_sync(transact)


def let_loop_run(connection: Connection) -> None:
    """Let the event loop serve others for a round, in the middle of a transaction that runs on it.

    A transaction of SQLite runs in a thread.
    """
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection
        driver.run_async(lambda _: asyncio.sleep(0))


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end even if the caller is cancelled meanwhile.

    A second cancellation is not waited out, but does not stop the work either.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def applied(write: Awaitable[T], apply: Callable[[T], object]) -> T:
    """Await a transaction and apply its result to what the server has in memory. Return the result.

    A running transaction cannot be stopped, so its result is applied even if the caller is cancelled meanwhile.
    Otherwise such a change would have no effect before the next start. It is applied before this returns.
    """

    async def write_and_apply() -> T:
        result = await write
        apply(result)
        return result

    return await finished(write_and_apply())
