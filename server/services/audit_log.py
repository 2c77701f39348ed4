"""The audit log, as callers read it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from server.errors import ProjectNotFound
from server.storage import audit_entries as store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from server.auth.caller import Caller
    from server.model import AuditEntry
    from server.paging import Page, PageRequest
    from server.storage.audit_entries import AuditFilter
    from server.storage.database import Database

EXPORTED_ENTRIES: Final = 25
"""The entries of one response of an export: at most 3 MiB."""


class AuditLog:
    """Reads the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, caller: Caller, wanted: AuditFilter, request: PageRequest) -> Page[AuditEntry]:
        """List entries, newest first; a page may be short. Raise ProjectNotFound."""
        wanted = _allowed(caller, wanted)
        limit, filters = request.limit(), ("audit", wanted)
        (before,) = request.cursor(filters, str) or ("",)
        found, resume = await self._database.read(
            lambda connection: store.entry_page(connection, wanted, limit, before)
        )
        return request.page(found, filters, lambda entry: (entry.id,), more=bool(resume), resume=(resume,))

    async def export(self, caller: Caller, wanted: AuditFilter) -> AsyncIterator[Sequence[AuditEntry]]:
        """Yield all entries up to the newest one of this moment, oldest first. Raise ProjectNotFound."""
        wanted = _allowed(caller, wanted)
        newest = await self._database.read(store.newest_id)
        after = ""
        while True:
            found, after = await self._database.read(
                lambda connection, after=after: store.entry_page(  # type: ignore[misc]
                    connection, wanted, EXPORTED_ENTRIES, after, oldest_first=True
                )
            )
            current = [entry for entry in found if entry.id <= newest]
            if current:
                yield current
            if not after or after >= newest:
                return


def _allowed(caller: Caller, wanted: AuditFilter) -> AuditFilter:
    """Return the filter within the project of the caller. Raise ProjectNotFound for another one."""
    if not caller.project_id:
        return wanted
    if wanted.project_id not in {"", caller.project_id}:
        raise ProjectNotFound(wanted.project_id)
    return replace(wanted, project_id=caller.project_id)
