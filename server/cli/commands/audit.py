"""The commands `audit`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
import grpc

from server.cli.arguments.message_parsers import instant
from server.cli.arguments.options import limit_option, option
from server.cli.client.call_failures import failure_of
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.errors import Failure
from server.cli.output.tables import moment, print_json_line, to_plain
from server.cli.output.views import show_list
from signalbox.v1 import audit_pb2 as pb
from signalbox.v1 import projects_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.client.session import Session

F = TypeVar("F", bound="Callable[..., Any]")

_OPTIONS = (
    option("--since", type=instant, metavar="RFC3339", help="Only changes at or after this time."),
    option("--until", type=instant, metavar="RFC3339", help="Only changes before this time."),
    option("--by", "key_id", metavar="ID", help="Only changes by the API key with this ID."),
    option("--action", metavar="RPC", help="Only this action, such as UpdateEventDefinition."),
    option("--resource-type", metavar="TYPE", help="Only resources of this type, such as event_definition."),
    option("--resource-id", metavar="ID", help="Only the resource with this ID."),
    option("--project-id", metavar="ID", help="Only this project, also a deleted one. (admin key)"),
    option("--all-projects", is_flag=True, help="The entries of all projects and of the server. (admin key)"),
)


def _filter_options(command: F) -> F:
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


@click.group()
def audit() -> None:
    """Show who changed what: definitions, automations, subscriptions, keys, projects, contacts, settings."""


@audit.command("list")
@_filter_options
@limit_option("changes")
@client_command
async def list_(session: Session, /, limit: int, **given: Any) -> None:
    """List changes, newest first."""
    call, wanted = await _call(session, given)
    entries = await list_all(
        partial(session.bare_call, session.audit.ListAuditEntries, metadata=call),
        pb.ListAuditEntriesRequest(filter=wanted),
        lambda response: response.entries,
        limit,
    )
    header = ("TIME", "ACTION", "RESOURCE", "ID", "BY", "API", "REQUEST")
    show_list(entries, header, _row, as_json=session.json)


@audit.command()
@_filter_options
@client_command
async def export(session: Session, /, **given: Any) -> None:
    """Print all changes as JSON lines, oldest first."""
    metadata, wanted = await _call(session, given)
    try:
        async for response in session.audit.ExportAuditEntries(
            pb.ExportAuditEntriesRequest(filter=wanted), metadata=metadata
        ):
            for entry in response.entries:
                print_json_line(to_plain(entry))
    except grpc.aio.AioRpcError as error:
        raise failure_of(error, session.connection) from error


async def _call(session: Session, given: dict[str, Any]) -> tuple[tuple[tuple[str, str], ...], pb.AuditFilter]:
    """Return the metadata and the filter of a call. Raise UsageError, and Failure for the key of a project."""
    anywhere = given.pop("all_projects")
    wanted = pb.AuditFilter(**{name: value for name, value in given.items() if value is not None})
    if anywhere and wanted.project_id:
        raise click.UsageError("Give --project-id or --all-projects.")
    if not (anywhere or wanted.project_id):
        return await session.metadata(), wanted
    if anywhere:
        await _check_admin(session)
    return session.admin_metadata(), wanted


async def _check_admin(session: Session) -> None:
    """Raise Failure for the key of a project, whose audit log is all that the server would return."""
    holder = await session.admin_call(session.projects.WhoAmI, projects_pb2.WhoAmIRequest())
    if not holder.admin:
        raise Failure(
            f"--all-projects needs the admin key; this key sees the project {holder.project.name} alone: "
            "leave the option out",
            reason="ADMIN_REQUIRED",
        )


def _row(entry: pb.AuditEntry) -> tuple[str, ...]:
    by = entry.key_id or ("server" if entry.api == "server" else "admin")
    return (
        moment(entry.occurred_at),
        entry.action,
        entry.resource_type,
        entry.resource_id,
        by,
        entry.api,
        entry.request_id,
    )
