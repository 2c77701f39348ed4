"""Enums of the contract as choices: REJECT of UNDEFINED_EVENTS_REJECT is `reject` on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli.options import option
from signalbox.v1 import event_definitions_pb2, event_pb2, projects_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.options import F


class Names:
    """The short names of an enum's members and their numbers on the wire."""

    def __init__(self, wire: Any, prefix: str) -> None:
        self.numbers: dict[str, Any] = {
            name.removeprefix(prefix).lower(): number for name, number in wire.items() if number
        }
        self._names = {number: name for name, number in self.numbers.items()}

    def name(self, number: int) -> str:
        """Give the short name of a member; a newer server may know more of them."""
        return self._names.get(number, str(number))


COERCION_KIND = Names(event_pb2.Coercion.Kind, "KIND_")
COERCION_MODE = Names(event_definitions_pb2.CoercionMode, "COERCION_MODE_")
COMPATIBILITY = Names(event_definitions_pb2.Compatibility, "COMPATIBILITY_")
DIRECTION = Names(event_definitions_pb2.Incompatibility.Direction, "DIRECTION_")
DIALECT = Names(projects_pb2.Dialect, "DIALECT_")
NAME_CASE = Names(projects_pb2.NameCase, "NAME_CASE_")
PROPERTY_TYPE = Names(event_definitions_pb2.PropertyType, "PROPERTY_TYPE_")
UNDEFINED_EVENTS = Names(projects_pb2.UndefinedEvents, "UNDEFINED_EVENTS_")
UNKNOWN_CONTACTS = Names(projects_pb2.UnknownContacts, "UNKNOWN_CONTACTS_")
UNKNOWN_PROPERTIES = Names(event_definitions_pb2.UnknownProperties, "UNKNOWN_PROPERTIES_")


def enum_option(flag: str, names: Names, **settings: Any) -> Callable[[F], F]:
    """Make an option whose value is a member's number on the wire, 0 where it is not given."""

    def number(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
        return 0 if value is None else names.numbers[value]

    return option(flag, type=click.Choice(list(names.numbers), case_sensitive=False), callback=number, **settings)
