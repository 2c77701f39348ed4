"""The command `definition export`."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from registry.codegen.proto_names import file_stem
from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import STDOUT, FilePath
from server.cli.client.definitions import get_definition
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.definitions.documents_text import definitions_text
from server.cli.errors import Failure
from server.cli.output.tables import print_json, printable, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from server.cli.client.session import Session


@click.command()
@click.argument("names", nargs=-1)
@option(
    "--format",
    "kind",
    type=click.Choice(["proto", "jsonschema", "yaml"]),
    default="proto",
    show_default=True,
    help="Messages for protoc and buf, JSON Schema, or YAML for `plan` and `apply`.",
)
@option(
    "-o",
    "--output",
    "folder",
    type=FilePath(files=False, stream=STDOUT),
    required=True,
    metavar="DIR",
    help="Folder to write to, created if missing. Existing files of the same names are replaced. With --format yaml, -"
    " for one document on stdout.",
)
@client_command
async def export(session: Session, names: tuple[str, ...], kind: str, folder: Path) -> None:
    """Write definitions, all or those named, as files: one for each definition.

    Files for code generation, or with --format yaml for `plan` and `apply`, which then find no change. Field numbers
    never change their meaning, so old and new code understand each other. Deleted definitions are left out.
    """
    if folder is STDOUT:
        if kind != "yaml" or session.json:
            raise click.UsageError("-o - writes one YAML document: give --format yaml, without --json")
        click.echo(definitions_text(await _definitions(session, names)), nl=False)
        return
    files = await _WRITERS[kind](session, names)
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


def yaml_files(definitions: Iterable[pb.EventDefinition]) -> dict[str, str]:
    """Return the text of a file for each definition, by the name of the file: safe and unique whatever its name is."""
    return {f"{file_stem(definition.name)}.yaml": definitions_text([definition]) for definition in definitions}


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
    every = names or [definition.name for definition in await _all(session)]
    schemas = [await _json_schema(session, name) for name in every]
    return {
        f"{file_stem(schema['title'])}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True)
        + "\n"
        for schema in schemas
    }


async def _json_schema(session: Session, name: str) -> dict[str, Any]:
    response = await session.call(session.definitions.GetJsonSchema, pb.GetJsonSchemaRequest(event_definition=name))
    schema: dict[str, Any] = to_plain(response)["json_schema"]
    return schema


async def _yaml_files(session: Session, names: Sequence[str]) -> dict[str, str]:
    return yaml_files(await _definitions(session, names))


async def _definitions(session: Session, names: Sequence[str]) -> list[pb.EventDefinition]:
    """Return the named definitions, or all, sorted by name. Raise Failure for a deleted one."""
    if not names:
        found = await _all(session)
    else:
        found = [await get_definition(session, name) for name in names]
        if deleted := next((definition for definition in found if definition.HasField("deleted_at")), None):
            raise Failure(f'"{printable(deleted.name)}" is deleted; only live definitions are exported as YAML')
    by_name = {definition.name: definition for definition in found}
    return [by_name[name] for name in sorted(by_name)]


async def _all(session: Session) -> list[pb.EventDefinition]:
    return await list_all(
        partial(session.call, session.definitions.ListEventDefinitions),
        pb.ListEventDefinitionsRequest(),
        lambda response: response.event_definitions,
    )


_WRITERS: Final = {"proto": _protos, "jsonschema": _json_schemas, "yaml": _yaml_files}
