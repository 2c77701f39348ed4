"""The commands `event`."""

from __future__ import annotations

from functools import partial
from typing import IO, TYPE_CHECKING, Any

import click

from server.cli.arguments.message_parsers import instant
from server.cli.arguments.message_parsers import properties as json_object
from server.cli.arguments.options import limit_option, option
from server.cli.arguments.value_parsers import WholeNumber
from server.cli.arguments.window_options import (
    occurred_since_option,
    occurred_until_option,
    since_option,
    until_option,
)
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.commands.explanations import explain
from server.cli.output.events import EVENT_COLUMNS, event_row, show_event, show_receipt
from server.cli.output.tables import print_json, print_json_line, printable, to_plain
from server.cli.output.views import show_list
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.group()
def event() -> None:
    """Send, list and follow events."""


event.add_command(explain)


@event.command()
@click.argument("name", default="")
@option("--email", metavar="EMAIL", help="Address of the contact that the event is about.")
@option("--contact-id", metavar="ID", help="Id of that contact, instead of the address.")
@option("--properties", type=json_object, metavar="JSON", help="The properties, as a JSON object.")
@option("--occurred-at", type=instant, metavar="RFC3339", help="When it happened; now by default.")
@option("--idempotency-key", metavar="KEY", help="Key that makes it safe to send the event again.")
@option("--matches", is_flag=True, help="Show the matches of the event.")
@option(
    "--from",
    "file",
    type=click.File("rb"),
    metavar="FILE.jsonl",
    help='Send many events: one JSON object per line with "email" or "contact_id", "properties", and optionally '
    '"name", "occurred_at" and "idempotency_key"; - for stdin. NAME applies to lines without a name.',
)
@client_command
async def send(session: Session, /, name: str, file: IO[bytes] | None, matches: bool, **fields: Any) -> None:
    """Send one event, or many with --from. Returns once the events are stored."""
    given = {field: value for field, value in fields.items() if value is not None}
    if file is not None:
        if given or matches:
            raise click.UsageError("--from reads everything but NAME from the file: leave out the other options")
        from server.cli.client.send_file import send_file

        await send_file(session, file, name)
        return
    if not name:
        raise click.UsageError("Missing argument 'NAME'.")
    if ("email" in given) == ("contact_id" in given):
        raise click.UsageError("Give --email or --contact-id.")
    view = pb.RESULT_VIEW_MATCHES if matches else pb.RESULT_VIEW_COERCED
    request = pb.SendEventRequest(event=pb.EventInput(name=name, **given), view=view)
    response = await session.call(session.ingest.SendEvent, request)
    show_receipt(response.receipt, as_json=session.json)


@event.command("list")
@option("--event", "name", metavar="NAME", help="Only events of this name.")
@option("--email", metavar="EMAIL", help="Only events about the contact with this address.")
@option("--contact-id", metavar="ID", help="Only events about this contact.")
@since_option
@until_option
@occurred_since_option
@occurred_until_option
@limit_option("events")
@client_command
async def list_(session: Session, /, limit: int, **filters: Any) -> None:
    """List events, newest first."""
    if filters["email"] is not None and filters["contact_id"] is not None:
        raise click.UsageError("Give --email or --contact-id, not both.")
    events = await list_all(
        partial(session.call, session.ingest.ListEvents),
        pb.ListEventsRequest(**filters),
        lambda response: response.events,
        limit,
    )
    show_list(events, EVENT_COLUMNS, event_row, as_json=session.json)


@event.command()
@click.argument("event_id", metavar="ID")
@client_command
async def show(session: Session, event_id: str) -> None:
    """Show one event."""
    response = await session.call(session.ingest.GetEvent, pb.GetEventRequest(id=event_id))
    if session.json:
        print_json(to_plain(response.event))
    else:
        show_event(response.event)


@event.command()
@option("--event", "name", metavar="NAME", help="Only events of this name.")
@since_option
@until_option
@option(
    "--from-position",
    type=WholeNumber(min=1, max=2**63 - 1),
    metavar="N",
    default=1,
    help="Start at this position; by default with the earliest event.",
)
@option(
    "-o", "--output", "file", type=click.File("w", lazy=True), default="-", metavar="FILE", help="By default stdout."
)
@client_command
async def export(session: Session, /, from_position: int, file: IO[str], **filters: Any) -> None:
    """Write events as JSON lines, oldest first, as `event send --from` reads them.

    The idempotency key of a line is the id of its event, so that a file can be sent again. Events without a person,
    because it was erased, are left out.
    """
    from server.cli.client.export_events import export_events

    await export_events(session, pb.ListEventsRequest(after_position=from_position - 1, **filters), file)


@event.command()
@option("--event", "name", metavar="NAME", default="", help="Only events of this name.")
@option(
    "--from-position",
    type=WholeNumber(min=1, max=2**63 - 1),
    metavar="N",
    help="Start at this position; 1 for the whole log.",
)
@client_command
async def tail(session: Session, name: str, from_position: int | None) -> None:
    """Print events as they are recorded, until Ctrl-C."""
    from server.cli.client.following import follow

    async for recorded in follow(session, name, from_position):
        if session.json:
            print_json_line(to_plain(recorded))
        else:
            click.echo(printable("  ".join(event_row(recorded))))
