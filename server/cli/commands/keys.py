"""The commands `key`. They need the admin key."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.confirmation import confirmed
from server.cli.arguments.enums import DIALECT, enum_option
from server.cli.arguments.message_parsers import instant
from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import seconds
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
@option("--name", metavar="TEXT", default="", help="A name for the key, for lists.")
@option("--expires-at", type=instant, metavar="RFC3339", help="When the key expires; never by default.")
@option(
    "--secret", metavar="EXISTING", default="", help="An existing secret to import, so that its callers keep their key."
)
@client_command
async def create(session: Session, /, dialect: pb.Dialect.ValueType, scopes: tuple[str, ...], **given: Any) -> None:
    """Create an API key. Its secret is shown only once."""
    request = pb.CreateApiKeyRequest(project=await session.project(), dialect=dialect, scopes=scopes, **given)
    response = await session.admin_call(session.projects.CreateApiKey, request)
    _show_secret(session, response)


@key.command()
@click.argument("key_id", metavar="ID")
@option(
    "--grace",
    type=seconds,
    metavar="TIME",
    default="0s",
    show_default=True,
    help="How long the old secret stays valid, such as 7d; at most 30d.",
)
@client_command
async def rotate(session: Session, key_id: str, grace: int) -> None:
    """Give a key a new secret. The secret is shown only once."""
    request = pb.RotateApiKeyRequest(id=key_id)
    request.grace.FromSeconds(grace)
    response = await session.admin_call(session.projects.RotateApiKey, request)
    _show_secret(session, response)


@key.command("list")
@client_command
async def list_(session: Session) -> None:
    """List the keys of a project, newest first, including revoked ones."""
    keys = await list_all(
        partial(session.admin_call, session.projects.ListApiKeys),
        pb.ListApiKeysRequest(project=await session.project()),
        lambda response: response.api_keys,
    )
    header = ("ID", "NAME", "HINT", "DIALECT", "SCOPES", "CREATED", "LAST USED", "EXPIRES", "REVOKED", "DESCRIPTION")
    show_list(keys, header, _row, as_json=session.json)


@key.command()
@click.argument("key_id", metavar="ID")
@confirmed("revokes the key {key_id} for good")
@client_command
async def revoke(session: Session, key_id: str) -> None:
    """Revoke a key. This cannot be undone."""
    response = await session.admin_call(session.projects.RevokeApiKey, pb.RevokeApiKeyRequest(id=key_id))
    show_one(response.api_key, key_fields, as_json=session.json)


def _row(api_key: pb.ApiKey) -> tuple[str, ...]:
    return (
        api_key.id,
        api_key.name,
        api_key.hint,
        DIALECT.name(api_key.dialect),
        ",".join(api_key.scopes),
        moment(api_key.created_at),
        moment(api_key.last_used_at),
        moment(api_key.expires_at),
        moment(api_key.revoked_at),
        api_key.description,
    )


def _show_secret(session: Session, response: pb.CreateApiKeyResponse | pb.RotateApiKeyResponse) -> None:
    if session.json:
        print_json(to_plain(response))
        return
    print_fields((("secret", response.secret), *key_fields(response.api_key)))
    click.echo("Store the secret now: it cannot be shown again.", err=True)


def key_fields(api_key: pb.ApiKey) -> tuple[tuple[str, str], ...]:
    """Return the fields of a key as they are shown."""
    return (
        ("id", api_key.id),
        ("name", api_key.name),
        ("project id", api_key.project_id),
        ("dialect", DIALECT.name(api_key.dialect)),
        ("scopes", ", ".join(api_key.scopes)),
        ("description", api_key.description),
        ("hint", api_key.hint),
        ("created", moment(api_key.created_at)),
        ("last used", moment(api_key.last_used_at)),
        ("expires", moment(api_key.expires_at)),
        ("old secret until", moment(api_key.previous_secret_expires_at)),
        ("revoked", moment(api_key.revoked_at)),
    )
