"""The service AuditLog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from server.paging import PageRequest
from server.rpc.messages.audit import read_audit_filter, write_entry
from server.rpc.messages.response_size import write_page
from signalbox.v1 import audit_pb2 as pb

if TYPE_CHECKING:
    from server.auth.caller import Caller
    from server.rpc.transport import Send
    from server.services.audit_log import AuditLog

READ_SECONDS: Final = 60.0
"""How long an export waits for its client to read a response."""


class AuditLogServicer:
    """Shows who changed what."""

    def __init__(self, audit_log: AuditLog) -> None:
        self._audit_log = audit_log

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, caller: Caller
    ) -> pb.ListAuditEntriesResponse:
        page = await self._audit_log.list(
            caller, read_audit_filter(request.filter), PageRequest(request.page_size, request.page_token)
        )
        response = pb.ListAuditEntriesResponse()
        response.next_page_token = write_page(page, write_entry, response.entries)
        return response

    async def ExportAuditEntries(self, request: pb.ExportAuditEntriesRequest, caller: Caller, send: Send) -> None:
        async for entries in self._audit_log.export(caller, read_audit_filter(request.filter)):
            await send(pb.ExportAuditEntriesResponse(entries=map(write_entry, entries)), READ_SECONDS)
