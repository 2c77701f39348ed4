"""`event export`: write the events of a project as the lines that `event send --from` reads."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import click

from server.cli.errors import Failure
from server.cli.output.quantities import quantity
from server.cli.output.tables import to_plain

if TYPE_CHECKING:
    from server.cli.client.session import Session
    from signalbox.v1 import event_ingest_pb2 as pb
    from signalbox.v1 import event_pb2

PAGE = 500


async def export_events(session: Session, request: pb.ListEventsRequest, file: IO[str]) -> None:
    """Write the events of a request, oldest first, and then their number on stderr.

    Raise Failure if the server goes away, with the position from which to continue.
    """
    request.page_size = PAGE
    written = left_out = position = 0
    # Opens it: without events, too, it is made anew.
    file.write("")
    while True:
        try:
            page = await session.call(session.ingest.ListEvents, request)
        except Failure as failure:
            if not position:
                raise
            text = f"{failure} ({quantity(written, 'event')} written; continue with --from-position {position + 1})"
            raise Failure(text, reason=failure.reason) from failure
        for recorded in page.events:
            line = _line(recorded)
            if line is None:
                left_out += 1
            else:
                file.write(f"{json.dumps(line, ensure_ascii=False)}\n")
                written += 1
            position = recorded.position
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    also = f"; left out {quantity(left_out, 'event')} of erased or deleted persons, or unreadable" if left_out else ""
    click.echo(f"exported {quantity(written, 'event')}{also}", err=True)


def _line(recorded: event_pb2.Event) -> dict[str, Any] | None:
    """Return the line of an event; None if nobody could send it, because its person is not known or its row damaged."""
    person = {"email": recorded.email} if recorded.email else {"contact_id": recorded.contact_id}
    if recorded.HasField("erased_at") or recorded.unreadable_reason or not all(person.values()):
        return None
    plain = to_plain(recorded)
    return {
        "name": recorded.name,
        **person,
        "properties": plain.get("properties", {}),
        "occurred_at": plain["occurred_at"],
        "idempotency_key": recorded.id,
    }
