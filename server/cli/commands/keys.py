"""The commands `key`. They need the admin key."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from server.cli.arguments.confirmation import confirmed
from server.cli.arguments.enums import DIALECT, enum_option
from server.cli.arguments.options import option
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.output.tables import moment, print_fields, print_json, to_plain
from server.cli.output.views import show_list, show_one
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.group()
def key() -> None:
    """Manage the API keys of a project. Needs the admin key."""


@key.command()
@enum_option("--dialect", DIALECT, default="native", help="The API whose rules and responses the key's calls follow.")
@option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    help="A scope of the key, such as events:write. (repeatable) [default: *]",
)
@option("--description", metavar="TEXT", default="", help="What the key is for.")
@option(
    "--secret", metavar="EXISTING", default="", help="An existing secret to import, so that its callers keep their key."
)
@client_command
async def create(
    session: Session, dialect: pb.Dialect.ValueType, scopes: tuple[str, ...], description: str, secret: str
) -> None:
    """Create an API key. Its secret is shown now and never again."""
    request = pb.CreateApiKeyRequest(
        project=await session.project(), dialect=dialect, scopes=scopes, description=description, secret=secret
    )
    response = await session.admin_call(session.projects.CreateApiKey, request)
    if session.json:
        print_json(to_plain(response))
        return
    print_fields((("secret", response.secret), *_fields(response.api_key)))
    click.echo("Store the secret now: it cannot be shown again.", err=True)


@key.command("list")
@client_command
async def list_(session: Session) -> None:
    """List the keys of a project, newest first, including revoked ones."""
    keys = await list_all(
        partial(session.admin_call, session.projects.ListApiKeys),
        pb.ListApiKeysRequest(project=await session.project()),
        lambda response: response.api_keys,
    )
    header = ("ID", "HINT", "DIALECT", "SCOPES", "CREATED", "REVOKED", "DESCRIPTION")
    show_list(keys, header, _row, as_json=session.json)


@key.command()
@click.argument("key_id", metavar="ID")
@confirmed("revokes the key {key_id} for good")
@client_command
async def revoke(session: Session, key_id: str) -> None:
    """Revoke a key. This cannot be undone."""
    response = await session.admin_call(session.projects.RevokeApiKey, pb.RevokeApiKeyRequest(id=key_id))
    show_one(response.api_key, _fields, as_json=session.json)


def _row(api_key: pb.ApiKey) -> tuple[str, ...]:
    return (
        api_key.id,
        api_key.hint,
        DIALECT.name(api_key.dialect),
        ",".join(api_key.scopes),
        moment(api_key.created_at),
        moment(api_key.revoked_at),
        api_key.description,
    )


def _fields(api_key: pb.ApiKey) -> tuple[tuple[str, str], ...]:
    return (
        ("id", api_key.id),
        ("project id", api_key.project_id),
        ("dialect", DIALECT.name(api_key.dialect)),
        ("scopes", ", ".join(api_key.scopes)),
        ("description", api_key.description),
        ("hint", api_key.hint),
        ("created", moment(api_key.created_at)),
        ("revoked", moment(api_key.revoked_at)),
    )
