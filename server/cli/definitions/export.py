"""The command `definition export`."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from registry.codegen.proto_names import file_stem
from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import FilePath
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.errors import Failure
from server.cli.output.tables import print_json, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from server.cli.client.session import Session


@click.command()
@click.argument("names", nargs=-1)
@option(
    "--format",
    "kind",
    type=click.Choice(["proto", "jsonschema"]),
    default="proto",
    show_default=True,
    help="Messages for protoc and buf, or JSON Schema.",
)
@option(
    "-o",
    "--output",
    "folder",
    type=FilePath(files=False),
    required=True,
    metavar="DIR",
    help="Folder to write to, created if missing. Existing files of the same names are replaced.",
)
@client_command
async def export(session: Session, names: tuple[str, ...], kind: str, folder: Path) -> None:
    """Write definitions, all or those named, as files for code generation: one for each definition.

    Field numbers never change their meaning, so old and new code understand each other.
    """
    files = await (_protos if kind == "proto" else _json_schemas)(session, names)
    written = write_files(folder, files)
    if session.json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            click.echo(path)


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write files into a folder. Raise Failure before the first is written if one would lie outside."""
    paths = {name: folder / name for name in sorted(files)}
    root = folder.resolve()
    for name, path in paths.items():
        if not path.resolve().is_relative_to(root):
            raise Failure(f"{name} is not written: it would lie outside {folder}")
    try:
        for name, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[name], encoding="utf-8", newline="\n")
    except OSError as error:
        raise Failure(f"{error.filename} cannot be written: {error.strerror}") from error
    return list(paths.values())


async def _protos(session: Session, names: Sequence[str]) -> dict[str, str]:
    request = pb.GetDescriptorSetRequest(event_definitions=names)
    files: dict[str, str] = {}
    while True:
        page = await session.call(session.definitions.GetDescriptorSet, request)
        files |= page.files
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return files


async def _json_schemas(session: Session, names: Sequence[str]) -> dict[str, str]:
    schemas = [await _json_schema(session, name) for name in names or await _all_names(session)]
    return {
        f"{file_stem(schema['title'])}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True)
        + "\n"
        for schema in schemas
    }


async def _json_schema(session: Session, name: str) -> dict[str, Any]:
    response = await session.call(session.definitions.GetJsonSchema, pb.GetJsonSchemaRequest(event_definition=name))
    schema: dict[str, Any] = to_plain(response)["json_schema"]
    return schema


async def _all_names(session: Session) -> list[str]:
    definitions = await list_all(
        partial(session.call, session.definitions.ListEventDefinitions),
        pb.ListEventDefinitionsRequest(),
        lambda response: response.event_definitions,
    )
    return [definition.name for definition in definitions]
