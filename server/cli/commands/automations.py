"""The commands `automation`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.confirmation import confirmed
from server.cli.arguments.enums import AUTOMATION_STATE, ENTRY_RULE, enum_option
from server.cli.arguments.label_option import label_option
from server.cli.arguments.message_parsers import attributes as json_object
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.commands.explanations import explain, test_condition
from server.cli.errors import Failure
from server.cli.output.json_text import to_json
from server.cli.output.tables import moment, print_fields, print_json, to_plain
from server.cli.output.views import show_list, show_one
from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import event_definitions_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.struct_pb2 import Struct

    from server.cli.client.session import Session

_attributes_option = option(
    "--attributes",
    type=json_object,
    metavar="JSON",
    help="Attributes that an engine stores with the automation, a JSON object.",
)


@click.group()
def automation() -> None:
    """Manage automations: which events start runs."""


automation.add_command(test_condition)
automation.add_command(explain)


@automation.command()
@click.argument("name")
@option("--event", "event_name", metavar="EVENT", required=True, help="Name of the events that trigger it.")
@option(
    "--condition", metavar="TEXT", default="", help="Condition that an event must meet; by default every event matches."
)
@enum_option("--entry", ENTRY_RULE, default="every-time", help="How often a contact may enter the automation.")
@label_option("A label.")
@_attributes_option
@option("--activate", is_flag=True, help="Activate it: events are matched from now on.")
@client_command
async def create(
    session: Session, /, entry: pb.EntryRule.ValueType, labels: Mapping[str, str], activate: bool, **stated: Any
) -> None:
    """Create an automation. Without --activate it is a draft."""
    state = pb.AUTOMATION_STATE_ACTIVE if activate else pb.AUTOMATION_STATE_DRAFT
    new = pb.Automation(state=state, entry_rule=entry, labels=labels, **stated)
    request = pb.CreateAutomationRequest(automation=new)
    await _show_and_warn(session, (await session.call(session.automations.CreateAutomation, request)).automation)


@automation.command("list")
@option("--event", "event_name", metavar="EVENT", default="", help="Only automations of this event.")
@enum_option("--state", AUTOMATION_STATE, help="Only automations in this state.")
@label_option("Only automations with this label.")
@option("--search", metavar="TEXT", default="", help="Only automations whose name contains this text, ignoring case.")
@limit_option("automations")
@client_command
async def list_(session: Session, /, labels: Mapping[str, str], limit: int, **filters: Any) -> None:
    """List automations, newest first."""
    automations = await list_all(
        partial(session.call, session.automations.ListAutomations),
        pb.ListAutomationsRequest(labels=labels, **filters),
        lambda response: response.automations,
        limit,
    )
    header = ("ID", "NAME", "STATE", "EVENT", "UPDATED", "CONDITION")
    show_list(automations, header, _row, as_json=session.json)


@automation.command()
@click.argument("automation_id", metavar="ID")
@client_command
async def show(session: Session, automation_id: str) -> None:
    """Show one automation."""
    request = pb.GetAutomationRequest(id=automation_id)
    _show(session, (await session.call(session.automations.GetAutomation, request)).automation)


@automation.command()
@click.argument("automation_id", metavar="ID")
@option("--name", metavar="NAME", help="New name.")
@option("--event", "event_name", metavar="EVENT", help="New name of the events that trigger it.")
@option("--condition", metavar="TEXT", help="New condition; an empty one matches every event.")
@enum_option("--entry", ENTRY_RULE, help="How often a contact may enter the automation.")
@label_option("A label to set; KEY= removes it.")
@_attributes_option
@etag_option
@client_command
async def update(
    session: Session,
    /,
    automation_id: str,
    entry: pb.EntryRule.ValueType,
    labels: Mapping[str, str],
    attributes: Struct | None,
    **changes: Any,
) -> None:
    """Update an automation. Options that are not given change nothing."""
    request = pb.UpdateAutomationRequest(
        id=automation_id, entry_rule=entry, labels=labels, attributes=attributes, **changes
    )
    await _show_and_warn(session, (await session.call(session.automations.UpdateAutomation, request)).automation)


@automation.command()
@click.argument("automation_id", metavar="ID")
@etag_option
@client_command
async def activate(session: Session, automation_id: str, etag: str) -> None:
    """Activate an automation: events that are recorded from now on are matched."""
    request = pb.ActivateAutomationRequest(id=automation_id, etag=etag)
    _show(session, (await session.call(session.automations.ActivateAutomation, request)).automation)


@automation.command()
@click.argument("automation_id", metavar="ID")
@etag_option
@client_command
async def pause(session: Session, automation_id: str, etag: str) -> None:
    """Pause an automation: it starts no more runs; open runs continue."""
    request = pb.PauseAutomationRequest(id=automation_id, etag=etag)
    _show(session, (await session.call(session.automations.PauseAutomation, request)).automation)


@automation.command()
@click.argument("automation_id", metavar="ID")
@etag_option
@confirmed("deletes the automation {automation_id} and cancels its open runs")
@client_command
async def delete(session: Session, automation_id: str, etag: str) -> None:
    """Delete an automation that is not active. Its open runs are cancelled."""
    request = pb.DeleteAutomationRequest(id=automation_id, etag=etag)
    response = await session.call(session.automations.DeleteAutomation, request)
    if session.json:
        print_json(to_plain(response))
    else:
        print_fields((*_fields(response.automation), ("cancelled runs", f"{response.cancelled_run_count:,}")))


async def _show_and_warn(session: Session, automation: pb.Automation) -> None:
    """Show an automation, and warn if its event has no definition, as far as the key may see that."""
    _show(session, automation)
    request = event_definitions_pb2.GetEventDefinitionRequest(event_definition=automation.event_name)
    try:
        await session.call(session.definitions.GetEventDefinition, request)
    except Failure as failure:
        if failure.reason == "DEFINITION_NOT_FOUND":
            until = "Until it is, only a project that accepts undefined events has some for this automation."
            click.echo(f"warning: {failure.message.rstrip('.')}. {until}", err=True)


def _show(session: Session, automation: pb.Automation) -> None:
    show_one(automation, _fields, as_json=session.json)


def _row(automation: pb.Automation) -> tuple[str, ...]:
    return (
        automation.id,
        automation.name,
        AUTOMATION_STATE.name(automation.state),
        automation.event_name,
        moment(automation.updated_at),
        automation.condition,
    )


def _fields(automation: pb.Automation) -> tuple[tuple[str, str], ...]:
    plain = to_plain(automation)
    return (
        ("name", automation.name),
        ("id", automation.id),
        ("state", AUTOMATION_STATE.name(automation.state)),
        ("event", automation.event_name),
        ("condition", automation.condition),
        ("entry", ENTRY_RULE.name(automation.entry_rule).replace("_", "-")),
        ("labels", _labels(plain["labels"])),
        ("attributes", to_json(plain["attributes"]) if plain["attributes"] else ""),
        ("active after", str(automation.activated_position) if automation.HasField("activated_position") else ""),
        ("created", moment(automation.created_at)),
        ("updated", moment(automation.updated_at)),
        ("etag", automation.etag),
    )


def _labels(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())
