"""The command `definition infer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import yaml

from server.cli.arguments.enums import (
    COERCION_MODE,
    COMPATIBILITY,
    INFERENCE_SOURCE,
    PROPERTY_TYPE,
    UNKNOWN_PROPERTIES,
    enum_option,
)
from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import FilePath, WholeNumber
from server.cli.client.session import client_command
from server.cli.definitions.export import write_files
from server.cli.output.quantities import quantity
from server.cli.output.tables import own_retention, print_json, printable, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from server.cli.client.session import Session

MAX_SAMPLE = 10_000


@click.command()
@click.argument("name")
@enum_option(
    "--from",
    INFERENCE_SOURCE,
    help="Events to infer from: those in quarantine, those recorded without a definition, or all recorded ones. By"
    " default the first two.",
)
@option(
    "--sample",
    "sample_size",
    type=WholeNumber(min=1, max=MAX_SAMPLE),
    metavar="N",
    default=1_000,
    show_default=True,
    help="Maximum number of events to sample.",
)
@option(
    "-o",
    "--output",
    "file",
    type=FilePath(folders=False),
    metavar="FILE",
    help="File to write to instead of stdout; an existing one is replaced.",
)
@client_command
async def infer(session: Session, /, name: str, sample_size: int, file: Path | None, **source: Any) -> None:
    """Propose a definition for the events of a name, as YAML for `plan` and `apply`.

    Comments in it count what the proposal would not accept. Read it before you apply it: a sample does not show every
    event.
    """
    request = pb.InferEventDefinitionRequest(name=name, source=source["from"], sample_size=sample_size)
    response = await session.call(session.definitions.InferEventDefinition, request)
    if session.json:
        print_json(to_plain(response))
        return
    text = proposal(response)
    if file is None:
        click.echo(text, nl=False)
        return
    for path in write_files(file.parent, {file.name: text}):
        click.echo(path)


def proposal(response: pb.InferEventDefinitionResponse) -> str:
    """Return a proposed definition as YAML, with what the sample shows as comments."""
    definition = response.event_definition
    document = {"definitions": {definition.name: _definition(definition)}}
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {printable(line)}\n" for line in _comments(response)) + body


def _comments(response: pb.InferEventDefinitionResponse) -> Iterator[str]:
    more = ", the newest ones" if response.truncated else ""
    verb = "is" if response.quarantined_count == 1 else "are"
    sample = quantity(response.sample_count, "event")
    yield f"Inferred from {sample}{more}; {response.quarantined_count:,} {verb} in quarantine."
    if response.conflict_count:
        yield f"{response.conflict_count:,} of them would be refused:"
    for found in response.properties:
        kinds = ", ".join(f"{kind.value_count:,} {kind.kind}" for kind in found.kinds)
        if found.conflict_count:
            yield f"  {found.path}: {quantity(found.conflict_count, 'value')} would be refused of {kinds}"
        if found.omitted_reason:
            yield f"  {found.path} is left out, because {found.omitted_reason} ({kinds})"


def _definition(definition: pb.EventDefinition) -> dict[str, Any]:
    schema = definition.schema
    rules = {
        "description": definition.description,
        "compatibility": _word(COMPATIBILITY.name(definition.compatibility), "none"),
        "unknown_properties": _word(UNKNOWN_PROPERTIES.name(schema.unknown_properties), "reject"),
        "coercion": _word(COERCION_MODE.name(schema.coercion), "lenient"),
        "event_retention": own_retention(definition.event_retention),
    }
    return {name: value for name, value in rules.items() if value} | {"properties": _properties(schema.properties)}


def _word(word: str, default: str) -> str:
    return "" if word == default else word


def _properties(properties: Iterable[pb.Property]) -> dict[str, Any]:
    return {declared.name: _property(declared) for declared in properties}


def _property(declared: pb.Property) -> Any:
    """Return a property in its short form, a type, if it needs no other."""
    kind = PROPERTY_TYPE.name(declared.type)
    if declared.item_type:
        kind = f"{kind}<{PROPERTY_TYPE.name(declared.item_type)}>"
    if not (declared.description or declared.suggested_values or declared.personal or declared.properties):
        return f"{kind}!" if declared.required else kind
    form: dict[str, Any] = {"type": kind}
    if declared.required:
        form["required"] = True
    if declared.description:
        form["description"] = declared.description
    if declared.suggested_values:
        form["suggested_values"] = list(declared.suggested_values)
    if declared.personal:
        form["personal"] = True
    if declared.properties:
        form["properties"] = _properties(declared.properties)
    return form
