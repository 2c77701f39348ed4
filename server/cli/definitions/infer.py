"""The command `definition infer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import INFERENCE_SOURCE, enum_option
from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import STDOUT, FilePath, WholeNumber
from server.cli.client.session import client_command
from server.cli.definitions.documents_text import definitions_text
from server.cli.definitions.export import write_files
from server.cli.output.quantities import quantity
from server.cli.output.tables import print_json, printable, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    type=FilePath(folders=False, stream=STDOUT),
    metavar="FILE",
    help="File to write to instead of stdout; an existing one is replaced. - for stdout.",
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
    if file is None or file is STDOUT:
        click.echo(text, nl=False)
        return
    for path in write_files(file.parent, {file.name: text}):
        click.echo(path)


def proposal(response: pb.InferEventDefinitionResponse) -> str:
    """Return a proposed definition as YAML, with what the sample shows as comments."""
    comments = "".join(f"# {printable(line)}\n" for line in _comments(response))
    return comments + definitions_text([response.event_definition])


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
