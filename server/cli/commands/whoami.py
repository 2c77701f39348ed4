"""The command `whoami`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server.cli.client.session import client_command
from server.cli.commands.keys import key_fields
from server.cli.output.views import show_one
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.command()
@client_command
async def whoami(session: Session) -> None:
    """Show what the key is and may do, and the version of the server."""
    metadata = session.admin_metadata()
    if session.connection.project:
        metadata = await session.metadata()
    response = await session.bare_call(session.projects.WhoAmI, pb.WhoAmIRequest(), metadata)
    show_one(response, _fields, as_json=session.json)


def _fields(response: pb.WhoAmIResponse) -> tuple[tuple[str, str], ...]:
    return (
        ("key", "admin" if response.admin else response.api_key.name or response.api_key.hint),
        ("project", response.project.name),
        *(() if response.admin else key_fields(response.api_key)),
        ("server version", response.server_version),
    )
