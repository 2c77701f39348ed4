"""The commands `key`. They take the admin key."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from server.cli.arguments.enums import DIALECT, enum_option
from server.cli.arguments.options import option
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_plain
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.group()
def key() -> None:
    """Keep the API keys of a project. Takes the admin key."""


@key.command()
@enum_option("--dialect", DIALECT, default="native", help="Whose rules and answers the key's calls follow.")
@option(
    "--scope", "scopes", metavar="SCOPE", multiple=True, help="What the key may do, such as events:write. [default: *]"
)
@option("--description", metavar="TEXT", default="", help="What the key is for.")
@option("--secret", metavar="EXISTING", default="", help="A secret to take over, so that its callers keep their key.")
@client_command
async def create(
    session: Session, dialect: pb.Dialect.ValueType, scopes: tuple[str, ...], description: str, secret: str
) -> None:
    """Create an API key. Its secret is shown now and never again."""
    request = pb.CreateApiKeyRequest(
        project=await session.project(), dialect=dialect, scopes=scopes, description=description, secret=secret
    )
    answer = await session.admin_call(session.projects.CreateApiKey, request)
    if session.json:
        print_json(to_plain(answer))
        return
    print_fields((("secret", answer.secret), *_fields(answer.api_key)))
    click.echo("Keep the secret: it cannot be shown again.", err=True)


@key.command("list")
@client_command
async def list_(session: Session) -> None:
    """List the keys of a project, newest first, revoked ones included."""
    keys = await listed(
        partial(session.admin_call, session.projects.ListApiKeys),
        pb.ListApiKeysRequest(project=await session.project()),
        lambda answer: answer.api_keys,
    )
    if session.json:
        print_json([to_plain(each) for each in keys])
        return
    print_table(
        ("ID", "HINT", "DIALECT", "SCOPES", "CREATED", "REVOKED", "DESCRIPTION"),
        [
            (
                each.id,
                each.hint,
                DIALECT.name(each.dialect),
                ",".join(each.scopes),
                moment(each.created_at),
                moment(each.revoked_at),
                each.description,
            )
            for each in keys
        ],
    )


@key.command()
@click.argument("key_id", metavar="ID")
@client_command
async def revoke(session: Session, key_id: str) -> None:
    """Revoke a key for good."""
    answer = await session.admin_call(session.projects.RevokeApiKey, pb.RevokeApiKeyRequest(id=key_id))
    if session.json:
        print_json(to_plain(answer.api_key))
    else:
        print_fields(_fields(answer.api_key))


def _fields(each: pb.ApiKey) -> tuple[tuple[str, str], ...]:
    return (
        ("id", each.id),
        ("project id", each.project_id),
        ("dialect", DIALECT.name(each.dialect)),
        ("scopes", ", ".join(each.scopes)),
        ("description", each.description),
        ("hint", each.hint),
        ("created", moment(each.created_at)),
        ("revoked", moment(each.revoked_at)),
    )
