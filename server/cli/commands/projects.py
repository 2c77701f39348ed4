"""The commands `project`. They take the admin key."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import NAME_CASE, UNDEFINED_EVENTS, UNKNOWN_CONTACTS, enum_option
from server.cli.arguments.options import etag_option, option
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_plain
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.arguments.options import F
    from server.cli.client.session import Session


@click.group()
def project() -> None:
    """Keep projects: the tenants that everything else belongs to. Takes the admin key."""


def _rules(command: F) -> F:
    """Give a command the options that are named as the fields of the rules."""
    options: tuple[Callable[[F], F], ...] = (
        enum_option("--undefined-events", UNDEFINED_EVENTS, help="What becomes of events that no definition covers."),
        enum_option("--unknown-contacts", UNKNOWN_CONTACTS, help="What becomes of events about unknown addresses."),
        enum_option("--name-case", NAME_CASE, help="How the names of events are compared."),
    )
    for decorate in reversed(options):
        command = decorate(command)
    return command


@project.command()
@click.argument("name")
@_rules
@client_command
async def create(session: Session, /, name: str, **rules: Any) -> None:
    """Create a project. It rejects undefined events and unknown contacts unless told otherwise."""
    request = pb.CreateProjectRequest(project=pb.Project(name=name, **rules))
    answer = await session.admin_call(session.projects.CreateProject, request)
    _show(session, answer.project)


@project.command("list")
@client_command
async def list_(session: Session) -> None:
    """List the projects, newest first."""
    projects = await listed(
        partial(session.admin_call, session.projects.ListProjects),
        pb.ListProjectsRequest(),
        lambda answer: answer.projects,
    )
    if session.json:
        print_json([to_plain(each) for each in projects])
        return
    print_table(
        ("NAME", "ID", "HEAD POSITION", "CREATED"),
        [(each.name, each.id, str(each.head_position), moment(each.created_at)) for each in projects],
    )


@project.command()
@click.argument("name_or_id")
@client_command
async def show(session: Session, name_or_id: str) -> None:
    """Show one project."""
    answer = await session.admin_call(session.projects.GetProject, pb.GetProjectRequest(project=name_or_id))
    _show(session, answer.project)


@project.command()
@click.argument("name_or_id")
@option("--name", metavar="NAME", help="New name.")
@_rules
@etag_option
@client_command
async def update(session: Session, /, name_or_id: str, name: str | None, etag: str, **rules: Any) -> None:
    """Change a project; what is not named stays as it is."""
    request = pb.UpdateProjectRequest(project=name_or_id, name=name, etag=etag, **rules)
    _show(session, (await session.admin_call(session.projects.UpdateProject, request)).project)


def _show(session: Session, each: pb.Project) -> None:
    if session.json:
        print_json(to_plain(each))
        return
    print_fields(
        (
            ("name", each.name),
            ("id", each.id),
            ("undefined events", UNDEFINED_EVENTS.name(each.undefined_events)),
            ("unknown contacts", UNKNOWN_CONTACTS.name(each.unknown_contacts)),
            ("name case", NAME_CASE.name(each.name_case)),
            ("head position", str(each.head_position)),
            ("created", moment(each.created_at)),
            ("updated", moment(each.updated_at)),
            ("etag", each.etag),
        )
    )
