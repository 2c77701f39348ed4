"""Compiled statements, shared by all engines of a process.

SQLAlchemy compiles a statement for each engine anew, which takes a millisecond, and an engine is a pool of connections:
PostgreSQL has two, SQLite one for writes and one for reads.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from sqlalchemy.util import LRUCache

_KEPT: Final = 1_000
"""The statements that are kept. There are about 300."""

_Key: TypeAlias = tuple[Any, ...]


class _Statements(LRUCache[_Key, Any]):
    """Compiled statements by content and kind of database, rather than by the engine that they were compiled for."""

    def get(self, key: _Key, default: Any = None) -> Any:
        return super().get(_shared(key), default)

    def __setitem__(self, key: _Key, compiled: Any) -> None:
        super().__setitem__(_shared(key), compiled)


def _shared(key: _Key) -> _Key:
    dialect, *statement = key
    return (type(dialect), dialect.server_version_info, *statement)


OPTIONS: Final = {"compiled_cache": _Statements(_KEPT)}
"""Options of every engine."""
