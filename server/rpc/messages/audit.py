"""Entries of the audit log between their messages and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.sql.unreadable_rows import load_reported
from server.rpc.messages.structs import write_struct
from server.rpc.messages.times import read_timestamp, timestamp
from server.storage.audit_entries import AuditFilter
from signalbox.v1 import audit_pb2 as pb

if TYPE_CHECKING:
    from server.model import AuditEntry


def read_audit_filter(message: pb.AuditFilter) -> AuditFilter:
    """Read a filter. Raise InvalidArgument."""
    return AuditFilter(
        project_id=message.project_id,
        since=read_timestamp(message, "since", "filter.since"),
        until=read_timestamp(message, "until", "filter.until"),
        key_id=message.key_id,
        action=message.action,
        resource_type=message.resource_type,
        resource_id=message.resource_id,
    )


def write_entry(entry: AuditEntry) -> pb.AuditEntry:
    """Write an entry."""
    message = pb.AuditEntry(
        id=entry.id,
        occurred_at=timestamp(entry.occurred_at),
        project_id=entry.project_id,
        key_id=entry.key_id,
        api=entry.api,
        request_id=entry.request_id,
        action=entry.action,
        resource_type=entry.resource_type,
        resource_id=entry.resource_id,
        omitted_fields=entry.omitted,
    )
    for content, into in ((entry.before, "before"), (entry.after, "after")):
        if content:
            values, unreadable = load_reported("audit_entry", entry.id, content)
            if unreadable:
                message.omitted_fields.append(into)
                continue
            struct = getattr(message, into)
            struct.SetInParent()
            write_struct(values, struct)
    return message
