"""The commands `automation test`, `automation explain` and `event explain`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.message_parsers import properties as json_object
from server.cli.arguments.options import limit_option, option
from server.cli.arguments.value_parsers import automation_id
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.output.events import show_violations
from server.cli.output.explanations import show_explanation, show_trace, verdict_text
from server.cli.output.tables import print_json, printable, to_plain
from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import contacts_pb2, event_ingest_pb2

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

    from server.cli.client.session import Session

NOT_TRUE = 2
"""Exit code if the condition is not true."""


@click.command("test")
@click.argument("condition")
@option("--event", "name", metavar="EVENT", required=True, help="Name of the event.")
@option("--properties", type=json_object, metavar="JSON", help="Properties of the event, as a JSON object.")
@option("--email", metavar="EMAIL", help="Address of the contact.")
@option(
    "--contact-properties",
    type=json_object,
    metavar="JSON",
    help="Properties of a contact that is not stored, a JSON object.",
)
@client_command
async def test_condition(
    session: Session, /, condition: str, email: str | None, contact_properties: Struct | None, **fields: Any
) -> None:
    """Evaluate a condition, clause by clause. Exits with 2 unless it is true."""
    contact = None
    if contact_properties is not None:
        contact = contacts_pb2.Contact(email=email or "", properties=contact_properties)
    request = pb.TestConditionRequest(condition=condition, event=event_ingest_pb2.EventInput(**fields), contact=contact)
    if email is not None:
        request.event.email = email
    response = await session.call(session.automations.TestCondition, request)
    if session.json:
        print_json(to_plain(response))
    else:
        click.echo(verdict_text(response.verdict))
        for error in response.errors:
            click.echo(printable(f"line {error.line}, column {error.column}: {error.reason} {error.message}"))
        show_violations(response.violations)
        show_trace(response.trace)
    if response.verdict != pb.VERDICT_TRUE:
        raise click.exceptions.Exit(NOT_TRUE)


@click.command("explain")
@click.argument("event_id", metavar="EVENT_ID")
@option("--automation", "automation_id", type=automation_id, metavar="ID", help="Only for this automation.")
@limit_option("automations")
@client_command
async def explain(session: Session, /, event_id: str, automation_id: str | None, limit: int) -> None:
    """Explain for each automation why a recorded event matched it or did not."""
    explanations = await list_all(
        partial(session.call, session.automations.ExplainEvent),
        pb.ExplainEventRequest(event_id=event_id, automation_id=automation_id or ""),
        lambda response: response.explanations,
        limit,
    )
    if session.json:
        print_json([to_plain(explanation) for explanation in explanations])
        return
    if not explanations:
        click.echo("No automation is triggered by events of this name.")
    for explanation in explanations:
        show_explanation(explanation)
