"""SQL of the secrets that all servers of a database share, and that outlive restarts."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from server.storage.tables import server_secret

if TYPE_CHECKING:
    from sqlalchemy import Connection

PAGE_TOKENS: Final = "page_tokens"
"""The name of the secret that signs page tokens."""

_BYTES: Final = 32


def read_or_make_secret(connection: Connection, name: str) -> bytes:
    """Return the secret with a name; it is made if the database has none yet."""
    query = sa.select(server_secret.c.secret).where(server_secret.c.name == name)
    secret = connection.scalar(query)
    if secret is None:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        # Another server may make it at the same time.
        values = {"name": name, "secret": secrets.token_bytes(_BYTES)}
        connection.execute(insert(server_secret).values(values).on_conflict_do_nothing())
        secret = connection.scalar(query)
    return bytes(secret or b"")
