"""Import everything that a server imports by the time it is ready, for processes that are forked from this one."""

from __future__ import annotations

from importlib import import_module

for _name in (
    "alembic.autogenerate",
    "alembic.command",
    "asyncpg",
    "server.app",
    "server.cli.main",
    "server.cli.startup_errors",
    "server.storage.postgresql.database",
    "server.storage.sqlite.database",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "uvicorn.lifespan.off",
):
    import_module(_name)
