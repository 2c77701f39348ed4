"""The options that state a schema: property by property, or as a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import IO, TYPE_CHECKING

import click

from server.cli.arguments.enums import COERCION_MODE, UNKNOWN_PROPERTIES, enum_option
from server.cli.arguments.inputs import property_of, read_schema
from server.cli.arguments.options import option
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.cli.arguments.options import F
    from server.cli.client.session import Session


schema_file_option = option(
    "--schema",
    "file",
    type=click.File(encoding="utf-8"),
    metavar="FILE.json",
    help="The whole schema in the JSON form of signalbox.v1.Schema, nested properties included; - for stdin. "
    'For example {"properties":[{"name":"total","type":"PROPERTY_TYPE_NUMBER","required":true}]}',
)

remove_option = option(
    "--remove", "removed", metavar="NAME", multiple=True, help="A property to remove. Again for each."
)

_OPTIONS = (
    option(
        "--property",
        "properties",
        type=property_of,
        metavar="NAME:TYPE",
        multiple=True,
        help="A property, such as order_total:number, or order_total:number! if it is required, or "
        "tags:array<string>. Again for each.",
    ),
    enum_option("--unknown", UNKNOWN_PROPERTIES, help="What becomes of properties that are not declared."),
    enum_option("--coercion", COERCION_MODE, help="Whether values of another type are converted."),
    schema_file_option,
)


def schema_options(command: F) -> F:
    """Give a command `--property`, `--unknown`, `--coercion` and `--schema`, for the fields of StatedSchema."""
    return reduce(lambda decorated, decorate: decorate(decorated), reversed(_OPTIONS), command)


@dataclass(frozen=True, slots=True)
class StatedSchema:
    """What `schema_options` gathered."""

    properties: tuple[pb.Property, ...]
    unknown: pb.UnknownProperties.ValueType
    coercion: pb.CoercionMode.ValueType
    file: IO[str] | None

    def whole(self) -> pb.Schema:
        """Give the schema that is stated, whole."""
        return self._in_file() or self._in_options()

    async def next_of(
        self, session: Session, name_or_id: str, removed: tuple[str, ...]
    ) -> tuple[pb.Schema | None, str]:
        """Give the schema that a definition is to have: the file's, or its latest one changed by the options.

        With it comes the etag of the definition that was changed; None and "" where nothing is stated.
        """
        if self.file is not None:
            return self._in_file(removed=bool(removed)), ""
        stated = self._in_options()
        if not removed and stated == pb.Schema():
            return None, ""
        current = await get_definition(session, name_or_id)
        return _changed(current.schema, stated, removed), current.etag

    def _in_options(self) -> pb.Schema:
        return pb.Schema(properties=self.properties, unknown_properties=self.unknown, coercion=self.coercion)

    def _in_file(self, *, removed: bool = False) -> pb.Schema | None:
        if self.file is None:
            return None
        if removed or self._in_options() != pb.Schema():
            raise click.UsageError(
                "--schema is the whole schema: leave out --property, --remove, --unknown and --coercion"
            )
        return read_schema(self.file)


async def get_definition(session: Session, name_or_id: str) -> pb.EventDefinition:
    """Read a definition."""
    request = pb.GetEventDefinitionRequest(event_definition=name_or_id)
    return (await session.call(session.definitions.GetEventDefinition, request)).event_definition


def _changed(current: pb.Schema, stated: pb.Schema, removed: Iterable[str]) -> pb.Schema:
    properties = {each.name: each for each in current.properties}
    for name in removed:
        if properties.pop(name, None) is None:
            raise click.UsageError(f'There is no property "{name}" to remove')
    properties |= {each.name: each for each in stated.properties}
    return pb.Schema(
        properties=properties.values(),
        unknown_properties=stated.unknown_properties or current.unknown_properties,
        coercion=stated.coercion or current.coercion,
    )
