"""Enums of the contract as choices: `every-time` on the command line is ENTRY_RULE_EVERY_TIME."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.options import option
from signalbox.v1 import (
    automations_pb2,
    event_definitions_pb2,
    event_pb2,
    match_pb2,
    match_stream_pb2,
    projects_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.arguments.options import F


class Names:
    """The short names of the members of an enum, and their numbers on the wire."""

    def __init__(self, wire: Any, prefix: str) -> None:
        self.numbers: dict[str, Any] = {
            name.removeprefix(prefix).lower(): number for name, number in wire.items() if number
        }
        self._names = {number: name for name, number in self.numbers.items()}

    def name(self, number: int) -> str:
        """Return the short name of a member; the number for a member that only a newer server knows."""
        return self._names.get(number, str(number))


AUTOMATION_STATE = Names(automations_pb2.AutomationState, "AUTOMATION_STATE_")
COERCION_KIND = Names(event_pb2.Coercion.Kind, "KIND_")
COERCION_MODE = Names(event_definitions_pb2.CoercionMode, "COERCION_MODE_")
COMPATIBILITY = Names(event_definitions_pb2.Compatibility, "COMPATIBILITY_")
DELIVERY_ORDER = Names(match_stream_pb2.DeliveryOrder, "DELIVERY_ORDER_")
DIRECTION = Names(event_definitions_pb2.Incompatibility.Direction, "DIRECTION_")
DIALECT = Names(projects_pb2.Dialect, "DIALECT_")
ERASURE = Names(projects_pb2.Erasure, "ERASURE_")
ENTRY_RULE = Names(automations_pb2.EntryRule, "ENTRY_RULE_")
INFERENCE_SOURCE = Names(event_definitions_pb2.InferenceSource, "INFERENCE_SOURCE_")
MATCH_KIND = Names(match_pb2.Match.Kind, "KIND_")
NAME_CASE = Names(projects_pb2.NameCase, "NAME_CASE_")
PARKING_CAUSE = Names(match_stream_pb2.ParkedMatch.Cause, "CAUSE_")
PROPERTY_TYPE = Names(event_definitions_pb2.PropertyType, "PROPERTY_TYPE_")
REASON_KIND = Names(automations_pb2.OutsideReason.Kind, "KIND_")
REFUSED_EVENTS = Names(projects_pb2.RefusedEvents, "REFUSED_EVENTS_")
RUN_OUTCOME = Names(automations_pb2.RunOutcome, "RUN_OUTCOME_")
RUN_STATUS = Names(automations_pb2.RunStatus, "RUN_STATUS_")
UNDEFINED_EVENTS = Names(projects_pb2.UndefinedEvents, "UNDEFINED_EVENTS_")
UNKNOWN_CONTACTS = Names(projects_pb2.UnknownContacts, "UNKNOWN_CONTACTS_")
UNKNOWN_PROPERTIES = Names(event_definitions_pb2.UnknownProperties, "UNKNOWN_PROPERTIES_")
VERDICT = Names(automations_pb2.Verdict, "VERDICT_")


def enum_option(flag: str, names: Names, **settings: Any) -> Callable[[F], F]:
    """Return an option whose value is the number of a member on the wire, 0 if the option is not given."""

    def number(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
        return 0 if value is None else names.numbers[value.replace("-", "_")]

    return option(flag, type=_choice(names), callback=number, **settings)


def enums_option(flag: str, variable: str, names: Names, **settings: Any) -> Callable[[F], F]:
    """Return a repeatable option whose value is the list of the numbers of the given members on the wire."""

    def numbers(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[Any]:
        return [names.numbers[value.replace("-", "_")] for value in values]

    return option(flag, variable, type=_choice(names), multiple=True, callback=numbers, **settings)


def _choice(names: Names) -> click.Choice[str]:
    return click.Choice([name.replace("_", "-") for name in names.numbers], case_sensitive=False)
