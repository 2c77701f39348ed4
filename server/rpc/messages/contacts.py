"""Contacts and their exports as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.model import Contact, Event
from server.rpc.messages.enums import MATCH_KIND
from server.rpc.messages.events import event_message
from server.rpc.messages.refused_events import refused_event_message
from server.rpc.messages.structs import write_struct
from server.rpc.messages.times import timestamp
from server.services.contact_exports import ExportedMatch, ExportedRun
from server.storage.quarantine.refused_events import RefusedEvent
from signalbox.v1 import contacts_pb2 as pb

if TYPE_CHECKING:
    from server.services.contact_exports import Record


def write_contact(contact: Contact) -> pb.Contact:
    """Write a contact."""
    message = pb.Contact(
        id=contact.id,
        email=contact.email,
        created_at=timestamp(contact.created_at),
        updated_at=timestamp(contact.updated_at),
        etag=contact.etag,
        unreadable_reason=contact.unreadable,
    )
    message.properties.SetInParent()
    write_struct(contact.properties, message.properties)
    return message


def write_record(record: Record) -> pb.ExportContactResponse:
    """Write one record of an export."""
    if isinstance(record, Event):
        return pb.ExportContactResponse(event=event_message(record))
    if isinstance(record, ExportedMatch):
        return pb.ExportContactResponse(match=_write_match(record))
    if isinstance(record, ExportedRun):
        return pb.ExportContactResponse(run=_write_run(record))
    if isinstance(record, RefusedEvent):
        return pb.ExportContactResponse(refused_event=refused_event_message(record))
    if isinstance(record, Contact):
        return pb.ExportContactResponse(contact=write_contact(record))
    end = pb.ExportEnd(
        head_position=record.head,
        event_count=record.events,
        match_count=record.matches,
        run_count=record.runs,
        refused_event_count=record.refused_events,
    )
    return pb.ExportContactResponse(end=end)


def _write_match(exported: ExportedMatch) -> pb.ExportedMatch:
    match = exported.match
    return pb.ExportedMatch(
        id=match.id,
        position=match.position,
        event_position=match.event_position,
        automation_id=exported.automation_id,
        run_id=match.run_id,
        kind=MATCH_KIND.write(match.kind),
        matched_at=timestamp(match.matched_at),
    )


def _write_run(exported: ExportedRun) -> pb.ExportedRun:
    run = exported.run
    message = pb.ExportedRun(
        id=run.id,
        automation_id=exported.automation_id,
        event_position=run.event_position,
        status=run.status,
        reason=run.reason,
        awaited_event=run.wait.event_name if run.wait else "",
        awaited_condition=run.wait.condition if run.wait else "",
        created_at=timestamp(run.created_at),
        finished_at=timestamp(run.finished_at) if run.finished_at else None,
    )
    message.attributes.SetInParent()
    write_struct(run.attributes, message.attributes)
    return message
