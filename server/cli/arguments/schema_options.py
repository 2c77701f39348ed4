"""Options for a schema: property by property, or as a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import IO, TYPE_CHECKING

import click

from server.cli.arguments.enums import COERCION_MODE, UNKNOWN_PROPERTIES, enum_option
from server.cli.arguments.message_parsers import property_of, read_schema
from server.cli.arguments.options import option
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from server.cli.arguments.options import F


schema_file_option = option(
    "--schema",
    "file",
    type=click.File(encoding="utf-8"),
    metavar="FILE.json",
    help="The whole schema as JSON of signalbox.v1.Schema, including nested properties; - for stdin. "
    'For example {"properties":[{"name":"total","type":"PROPERTY_TYPE_NUMBER","required":true}]}',
)

remove_option = option("--remove", "removed", metavar="NAME", multiple=True, help="A property to remove. (repeatable)")


def _each_once(
    _context: click.Context, _parameter: click.Parameter, given: tuple[pb.Property, ...]
) -> tuple[pb.Property, ...]:
    names = [property_.name for property_ in given]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise click.BadParameter(f'the property "{repeated}" is given twice; give each property once')
    return given


_OPTIONS = (
    option(
        "--property",
        "properties",
        type=property_of,
        metavar="NAME:TYPE",
        multiple=True,
        callback=_each_once,
        help="A property, such as order_total:number, or order_total:number! if it is required, or "
        "tags:array<string>. What it cannot state of a present property, such as its description, stays. (repeatable)",
    ),
    enum_option("--unknown", UNKNOWN_PROPERTIES, help="How undeclared properties are handled."),
    enum_option("--coercion", COERCION_MODE, help="How values of another type are handled."),
    schema_file_option,
)


def schema_options(command: F) -> F:
    """Add `--property`, `--unknown`, `--coercion` and `--schema` to a command, for the fields of SchemaOptions."""
    return reduce(lambda decorated, decorate: decorate(decorated), reversed(_OPTIONS), command)


@dataclass(frozen=True, slots=True)
class SchemaOptions:
    """The values of `schema_options`."""

    properties: tuple[pb.Property, ...]
    unknown: pb.UnknownProperties.ValueType
    coercion: pb.CoercionMode.ValueType
    file: IO[str] | None

    def whole(self) -> pb.Schema:
        """Return the given schema as a whole schema."""
        return self._in_file() or self._in_options()

    async def next_of(
        self, read_definition: Callable[[], Awaitable[pb.EventDefinition]], removed: tuple[str, ...]
    ) -> tuple[pb.Schema | None, str]:
        """Return the next schema of a definition: that of the file, or the latest one changed by the options.

        Also return the etag of the definition that was read; None and "" if no option is given.
        """
        if self.file is not None:
            return self._in_file(removed=bool(removed)), ""
        changes = self._in_options()
        if not removed and changes == pb.Schema():
            return None, ""
        current = await read_definition()
        return _changed(current.schema, changes, removed), current.etag

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


def _changed(current: pb.Schema, changes: pb.Schema, removed: Iterable[str]) -> pb.Schema:
    properties = {property_.name: property_ for property_ in current.properties}
    for name in removed:
        if properties.pop(name, None) is None:
            raise click.UsageError(f'There is no property "{name}" to remove')
    properties |= {given.name: _retyped(properties.get(given.name), given) for given in changes.properties}
    return pb.Schema(
        properties=properties.values(),
        unknown_properties=changes.unknown_properties or current.unknown_properties,
        coercion=changes.coercion or current.coercion,
    )


def _retyped(present: pb.Property | None, given: pb.Property) -> pb.Property:
    """Return a property of the given type; what the option cannot state stays as it is, as far as it fits the type."""
    if present is None:
        return given
    fits_text = given.type == pb.PROPERTY_TYPE_STRING
    may_nest = pb.PROPERTY_TYPE_OBJECT in {given.type, given.item_type}
    return pb.Property(
        name=given.name,
        type=given.type,
        item_type=given.item_type,
        required=given.required,
        description=present.description,
        personal=present.personal,
        suggested_values=present.suggested_values if fits_text else (),
        properties=present.properties if may_nest else (),
    )
