"""The commands `project`. They need the admin key."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.confirmation import confirmed
from server.cli.arguments.enums import (
    ERASURE,
    NAME_CASE,
    REFUSED_EVENTS,
    UNDEFINED_EVENTS,
    UNKNOWN_CONTACTS,
    enum_option,
)
from server.cli.arguments.message_parsers import event_retention
from server.cli.arguments.options import etag_option, option
from server.cli.arguments.value_parsers import WholeNumber
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.output.tables import moment, period
from server.cli.output.views import show_list, show_one
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.arguments.options import F
    from server.cli.client.session import Session


@click.group()
def project() -> None:
    """Manage projects, the tenants that own everything else. Needs the admin key."""


def _limit(flag: str, text: str) -> Callable[[F], F]:
    return option(flag, type=WholeNumber(min=0, max=2**63 - 1), metavar="N", help=text)


def _rules(command: F) -> F:
    """Add the options for the rules and the quota of a project, named like their fields."""
    options: tuple[Callable[[F], F], ...] = (
        enum_option("--undefined-events", UNDEFINED_EVENTS, help="How events without a definition are handled."),
        enum_option("--unknown-contacts", UNKNOWN_CONTACTS, help="How events for unknown addresses are handled."),
        enum_option("--name-case", NAME_CASE, help="How event names are compared."),
        enum_option("--refused-events", REFUSED_EVENTS, help="Whether refused events are kept, to be sent again."),
        option(
            "--event-retention",
            type=event_retention,
            metavar="TIME",
            help="How long events are kept, such as 90d; forever is the default.",
        ),
        _limit("--events-per-second", "How many events may be sent per second, on average; 0 for any number."),
        _limit("--event-burst", "How many events may be sent at once; by default those of one second."),
        _limit("--events-per-day", "How many events may be recorded per day (UTC); 0 for any number."),
        enum_option("--erasure", ERASURE, help="Which properties of events are erased with a person."),
    )
    for decorate in reversed(options):
        command = decorate(command)
    return command


@project.command()
@click.argument("name")
@_rules
@client_command
async def create(session: Session, /, name: str, **rules: Any) -> None:
    """Create a project. By default it rejects undefined events and unknown contacts."""
    request = pb.CreateProjectRequest(project=pb.Project(name=name, **rules))
    response = await session.admin_call(session.projects.CreateProject, request)
    show_one(response.project, _fields, as_json=session.json)


@project.command("list")
@client_command
async def list_(session: Session) -> None:
    """List the projects, newest first."""
    projects = await list_all(
        partial(session.admin_call, session.projects.ListProjects),
        pb.ListProjectsRequest(),
        lambda response: response.projects,
    )
    show_list(projects, ("NAME", "ID", "HEAD POSITION", "CREATED"), _row, as_json=session.json)


@project.command()
@click.argument("name_or_id")
@client_command
async def show(session: Session, name_or_id: str) -> None:
    """Show one project."""
    response = await session.admin_call(session.projects.GetProject, pb.GetProjectRequest(project=name_or_id))
    show_one(response.project, _fields, as_json=session.json)


@project.command()
@click.argument("name_or_id")
@option("--name", metavar="NAME", help="New name.")
@_rules
@etag_option
@client_command
async def update(session: Session, /, name_or_id: str, name: str | None, etag: str, **rules: Any) -> None:
    """Update a project. Options that are not given change nothing."""
    request = pb.UpdateProjectRequest(project=name_or_id, name=name, etag=etag, **rules)
    response = await session.admin_call(session.projects.UpdateProject, request)
    show_one(response.project, _fields, as_json=session.json)


@project.command()
@click.argument("name_or_id")
@option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@confirmed("deletes the project {name_or_id} with all its events, contacts and keys, for good")
@client_command
async def delete(session: Session, /, name_or_id: str, dry_run: bool) -> None:
    """Delete a project with everything in it but its audit log. This cannot be undone."""
    found = await session.admin_call(session.projects.GetProject, pb.GetProjectRequest(project=name_or_id))
    request = pb.DeleteProjectRequest(
        project=found.project.id, confirm_name=found.project.name, validate_only=dry_run, etag=found.project.etag
    )
    response = await session.admin_call(session.projects.DeleteProject, request)
    show_one(response, _contents, as_json=session.json)


def _contents(response: pb.DeleteProjectResponse) -> tuple[tuple[str, str], ...]:
    return (
        ("project", response.project.name),
        ("id", response.project.id),
        ("events up to", str(response.event_count)),
        ("matches up to", str(response.match_count)),
        ("contacts", str(response.contact_count)),
        ("definitions", str(response.definition_count)),
        ("automations", str(response.automation_count)),
        ("subscriptions", str(response.subscription_count)),
        ("keys", str(response.api_key_count)),
    )


def _row(project: pb.Project) -> tuple[str, ...]:
    return project.name, project.id, str(project.head_position), moment(project.created_at)


def _fields(project: pb.Project) -> tuple[tuple[str, str], ...]:
    return (
        ("name", project.name),
        ("id", project.id),
        ("undefined events", UNDEFINED_EVENTS.name(project.undefined_events)),
        ("unknown contacts", UNKNOWN_CONTACTS.name(project.unknown_contacts)),
        ("name case", NAME_CASE.name(project.name_case)),
        ("refused events", REFUSED_EVENTS.name(project.refused_events)),
        ("event retention", period(project.event_retention) if project.HasField("event_retention") else "forever"),
        ("quota", _quota(project)),
        ("erasure", ERASURE.name(project.erasure)),
        ("head position", str(project.head_position)),
        ("created", moment(project.created_at)),
        ("updated", moment(project.updated_at)),
        ("etag", project.etag),
    )


def _quota(project: pb.Project) -> str:
    limits = []
    if project.events_per_second:
        burst = project.event_burst or project.events_per_second
        limits.append(f"{project.events_per_second:,} events per second, {burst:,} at once")
    if project.events_per_day:
        limits.append(f"{project.events_per_day:,} events per day")
    return "; ".join(limits) or "none"
