"""Views of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import COERCION_KIND, MATCH_KIND
from server.cli.output.json_text import to_json
from server.cli.output.quantities import quantity
from server.cli.output.tables import moment, print_fields, print_json, printable, to_plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from signalbox.v1 import event_ingest_pb2 as pb
    from signalbox.v1 import event_pb2, match_pb2

EVENT_COLUMNS = ("POSITION", "ID", "RECEIVED", "NAME", "CONTACT", "PROPERTIES")


def event_row(event: event_pb2.Event) -> tuple[str, ...]:
    """Return the cells of one event, for EVENT_COLUMNS."""
    return (
        str(event.position),
        event.id,
        moment(event.received_at),
        printable(event.name),
        event.email or event.contact_id,
        to_json(to_plain(event)["properties"]),
    )


def show_receipt(receipt: pb.EventReceipt, *, as_json: bool) -> None:
    """Print the receipt of an event."""
    if as_json:
        print_json(to_plain(receipt))
        return
    if receipt.duplicate:
        click.echo("duplicate: this idempotency key was used before, for this event")
    show_event(receipt.event)
    if receipt.match_count:
        click.echo(f"matches {quantity(receipt.match_count, 'automation')}")
    for match in receipt.matches:
        click.echo(printable(_match(match)))


def show_event(event: event_pb2.Event) -> None:
    """Print one event, with one line for each coercion."""
    plain = to_plain(event)
    print_fields(
        (
            ("id", event.id),
            ("name", event.name),
            ("position", str(event.position)),
            ("revision", str(event.revision) if event.revision else "none: no definition covers the event"),
            ("contact", " ".join(part for part in (event.email, event.contact_id) if part)),
            ("occurred", moment(event.occurred_at)),
            ("received", moment(event.received_at)),
            ("properties", to_json(plain["properties"])),
        )
    )
    show_coercions(event.coercions, plain["coercions"])


def show_coercions(coercions: Iterable[event_pb2.Coercion], plain: Iterable[dict[str, Any]]) -> None:
    """Print coercions, one a line; `plain` is their JSON form."""
    for coercion, change in zip(coercions, plain, strict=True):
        click.echo(printable(_coercion(coercion, change)))


def show_violations(violations: Iterable[event_pb2.Violation]) -> None:
    """Print violations, one a line."""
    for violation in violations:
        click.echo(printable(f"{violation.path}  {violation.reason}  {violation.message}"))


def _match(match: match_pb2.Match) -> str:
    return f"match {match.position}  {MATCH_KIND.name(match.kind)} run {match.run_id} of {match.automation_name}"


def _coercion(coercion: event_pb2.Coercion, change: dict[str, Any]) -> str:
    before = to_json(change.get("from"))
    after = f" -> {to_json(change['to'])}" if "to" in change else ""
    return f"{coercion.path}  {before}{after} ({COERCION_KIND.name(coercion.kind).replace('_', ' ')})"
