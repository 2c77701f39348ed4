"""The commands `automation`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import AUTOMATION_STATE, ENTRY_RULE, enum_option
from server.cli.arguments.inputs import attributes as json_object
from server.cli.arguments.inputs import label
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.commands.explaining import explain, test_condition
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_json, to_plain
from signalbox.v1 import automations_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.struct_pb2 import Struct

    from server.cli.client.session import Session

_attributes_option = option(
    "--attributes", type=json_object, metavar="JSON", help="Whatever an engine keeps with it, as a JSON object."
)


@click.group()
def automation() -> None:
    """Say which events set off runs."""


automation.add_command(test_condition)
automation.add_command(explain)


@automation.command()
@click.argument("name")
@option("--event", "event_name", metavar="EVENT", required=True, help="Name of the events that it judges.")
@option("--condition", metavar="TEXT", default="", help="Which of those events match; all of them by default.")
@enum_option("--entry", ENTRY_RULE, default="every-time", help="How often a contact may enter it.")
@option("--label", "labels", type=label, metavar="KEY=VALUE", multiple=True, help="A label. Again for each.")
@_attributes_option
@option("--activate", is_flag=True, help="Have it judge events from now on.")
@client_command
async def create(
    session: Session, /, entry: pb.EntryRule.ValueType, labels: Iterable[tuple[str, str]], activate: bool, **stated: Any
) -> None:
    """Create an automation; without --activate it is a draft."""
    state = pb.AUTOMATION_STATE_ACTIVE if activate else pb.AUTOMATION_STATE_DRAFT
    wanted = pb.Automation(state=state, entry_rule=entry, labels=dict(labels), **stated)
    request = pb.CreateAutomationRequest(automation=wanted)
    _show(session, (await session.call(session.automations.CreateAutomation, request)).automation)


@automation.command("list")
@option("--event", "event_name", metavar="EVENT", default="", help="Only automations of this event.")
@enum_option("--state", AUTOMATION_STATE, help="Only automations in this state.")
@option("--label", "labels", type=label, metavar="KEY=VALUE", multiple=True, help="Only with this label.")
@option("--search", metavar="TEXT", default="", help="Only automations whose name contains this, in any case.")
@limit_option("automations")
@client_command
async def list_(session: Session, /, labels: Iterable[tuple[str, str]], limit: int, **filters: Any) -> None:
    """List automations, newest first."""
    automations = await listed(
        partial(session.call, session.automations.ListAutomations),
        pb.ListAutomationsRequest(labels=dict(labels), **filters),
        lambda answer: answer.automations,
        limit,
    )
    if session.json:
        print_json([to_plain(each) for each in automations])
        return
    print_table(
        ("ID", "NAME", "STATE", "EVENT", "UPDATED", "CONDITION"),
        [
            (
                each.id,
                each.name,
                AUTOMATION_STATE.name(each.state),
                each.event_name,
                moment(each.updated_at),
                each.condition,
            )
            for each in automations
        ],
    )


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
@option("--event", "event_name", metavar="EVENT", help="New name of the events that it judges.")
@option("--condition", metavar="TEXT", help="New condition; empty for none.")
@enum_option("--entry", ENTRY_RULE, help="How often a contact may enter it.")
@option(
    "--label",
    "labels",
    type=label,
    metavar="KEY=VALUE",
    multiple=True,
    help="A label to set, or with KEY= to remove. Again for each.",
)
@_attributes_option
@etag_option
@client_command
async def update(
    session: Session,
    /,
    automation_id: str,
    entry: pb.EntryRule.ValueType,
    labels: Iterable[tuple[str, str]],
    attributes: Struct | None,
    **changes: Any,
) -> None:
    """Change an automation; what is not named stays as it is."""
    request = pb.UpdateAutomationRequest(
        id=automation_id, entry_rule=entry, labels=dict(labels), attributes=attributes, **changes
    )
    _show(session, (await session.call(session.automations.UpdateAutomation, request)).automation)


@automation.command()
@click.argument("automation_id", metavar="ID")
@etag_option
@client_command
async def activate(session: Session, automation_id: str, etag: str) -> None:
    """Have an automation judge the events that are recorded from now on."""
    request = pb.ActivateAutomationRequest(id=automation_id, etag=etag)
    _show(session, (await session.call(session.automations.ActivateAutomation, request)).automation)


@automation.command()
@click.argument("automation_id", metavar="ID")
@etag_option
@client_command
async def pause(session: Session, automation_id: str, etag: str) -> None:
    """Have an automation start no more runs; those under way go on."""
    request = pb.PauseAutomationRequest(id=automation_id, etag=etag)
    _show(session, (await session.call(session.automations.PauseAutomation, request)).automation)


@automation.command()
@click.argument("automation_id", metavar="ID")
@etag_option
@client_command
async def delete(session: Session, automation_id: str, etag: str) -> None:
    """Delete an automation that is not active; its open runs are cancelled."""
    request = pb.DeleteAutomationRequest(id=automation_id, etag=etag)
    answer = await session.call(session.automations.DeleteAutomation, request)
    if session.json:
        print_json(to_plain(answer))
    else:
        print_fields((*_fields(answer.automation), ("cancelled runs", f"{answer.cancelled_run_count:,}")))


def _show(session: Session, each: pb.Automation) -> None:
    if session.json:
        print_json(to_plain(each))
    else:
        print_fields(_fields(each))


def _fields(each: pb.Automation) -> tuple[tuple[str, str], ...]:
    plain = to_plain(each)
    return (
        ("name", each.name),
        ("id", each.id),
        ("state", AUTOMATION_STATE.name(each.state)),
        ("event", each.event_name),
        ("condition", each.condition),
        ("entry", ENTRY_RULE.name(each.entry_rule).replace("_", "-")),
        ("labels", _labels(plain["labels"])),
        ("attributes", to_json(plain["attributes"]) if plain["attributes"] else ""),
        ("judges behind", str(each.activated_position) if each.HasField("activated_position") else ""),
        ("created", moment(each.created_at)),
        ("updated", moment(each.updated_at)),
        ("etag", each.etag),
    )


def _labels(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())
