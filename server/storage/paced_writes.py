"""Long work in many small transactions, which leaves the database to others in between."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from server.storage.database import Database

T = TypeVar("T")

REST_FACTOR: Final = 4
"""After each transaction, the work pauses this many times as long as it took."""


async def write_paced(database: Database, work: Callable[[Connection], T]) -> T:
    """Run a part of long work in one transaction, and pause. A send waits for one such part at most."""
    begun = monotonic()
    result = await database.write(work)
    await asyncio.sleep(REST_FACTOR * (monotonic() - begun))
    return result
