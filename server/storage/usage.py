"""The use of a database: of its connections, and of the disk."""

from __future__ import annotations

from typing import NamedTuple


class ConnectionUse(NamedTuple):
    """The use of the connections of one kind; `waits` and `waited_seconds` since the start, None if not counted."""

    connections: int
    used: int
    waiting: int
    waits: int | None = None
    waited_seconds: float | None = None


class DatabaseSize(NamedTuple):
    """The size of a database; None for what its kind does not have. `checkpointed_at` is in seconds since the epoch."""

    bytes: int
    wal_bytes: int | None = None
    free_bytes: int | None = None
    checkpointed_at: float | None = None
