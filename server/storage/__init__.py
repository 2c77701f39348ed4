"""SQL: connections to SQLite and PostgreSQL, migrations, and the server's own tables."""

from __future__ import annotations
