"""SQL of the settings with which a server of the database started last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.storage.tables import server_setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection


def stored_settings(connection: Connection) -> dict[str, str]:
    """Return the settings of the server that started last."""
    return {row.name: row.value for row in connection.execute(sa.select(server_setting))}


def store_settings(connection: Connection, settings: Mapping[str, str]) -> None:
    """Replace the settings of the last start."""
    connection.execute(server_setting.delete())
    connection.execute(server_setting.insert(), [{"name": name, "value": value} for name, value in settings.items()])
