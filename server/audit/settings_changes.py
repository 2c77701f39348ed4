"""Notes in the audit log with which settings a server starts, if they differ from those of the last start."""

from __future__ import annotations

import hmac
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from server.audit.audited_changes import AuditedValues
from server.storage.server_secrets import PAGE_TOKENS, read_or_make_secret
from server.storage.server_settings import store_settings, stored_settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from server.audit.audited_changes import AuditedChanges, AuditRecorder
    from server.settings import Settings

ACTION: Final = "StartServer"

_SECRET: Final = frozenset({"admin_key", "database"})
"""Settings whose values are secrets, or contain them. Of these an entry has only a fingerprint, which shows changes."""

_ADDRESSES: Final = frozenset({"grpc", "http", "metrics"})
"""Settings in which the servers of one database differ."""


async def record_settings(changes: AuditedChanges, settings: Settings) -> None:
    """Write an entry if the settings differ from those of the last start."""
    await changes.write(ACTION, partial(_record, settings=settings))


def _record(connection: Connection, record: AuditRecorder, settings: Settings) -> None:
    key = read_or_make_secret(connection, PAGE_TOKENS)
    before = stored_settings(connection)
    after = {field.name: _shown(field.name, getattr(settings, field.name), key) for field in _recorded(settings)}
    if before == after:
        return
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    old = {name: before[name] for name in sorted(differing & before.keys())}
    record(
        connection,
        0,
        AuditedValues("settings", "server", old) if before else None,
        AuditedValues("settings", "server", {name: after[name] for name in sorted(differing & after.keys())}),
    )
    store_settings(connection, after)


def _recorded(settings: Settings) -> list[Any]:
    return [field for field in fields(settings) if field.name not in _ADDRESSES]


def _shown(name: str, value: Any, key: bytes) -> str:
    if name in _SECRET:
        return f"fingerprint {hmac.digest(key, str(value).encode(), 'sha256').hex()[:12]}" if value else "not set"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)
