"""Enums of the contract to and from the registry's and the server's own."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from automation.automations import AutomationState, EntryRule
from automation.conditions.values import Verdict
from automation.matches import MatchKind
from automation.runs import RunOutcome, RunStatus
from automation.subscriptions.values import DeliveryOrder, NackAction, ParkingCause, SettleOutcome
from registry.coercion.report import CoercionKind
from registry.compatibility.comparison import Direction
from registry.definitions.schema import CoercionMode, Compatibility, PropertyType, UnknownProperties
from server.delivery.start_points import LogEnd
from server.errors import InvalidArgument
from server.ingest.draft import BatchMode
from server.model import Dialect, Erasure, NameCase, RefusedEvents, UndefinedEvents, UnknownContacts
from server.services.match_reasons import BlockingKind
from signalbox.v1 import (
    automations_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    event_pb2,
    match_pb2,
    match_stream_pb2,
    projects_pb2,
)

if TYPE_CHECKING:
    from enum import Enum

E = TypeVar("E", bound="Enum")


class EnumMap(Generic[E]):
    """The members of one enum and the numbers they have on the wire, found by name: PREFIX_MEMBER.

    `default` stands for the unspecified number; without one that number is refused. A member that is `unreadable` is
    written as the unspecified number, and never read.
    """

    def __init__(
        self, wire: Any, prefix: str, members: type[E], default: E | None = None, unreadable: E | None = None
    ) -> None:
        self._members = {wire.Value(f"{prefix}{each.name}"): each for each in members if each is not unreadable}
        self._constants = [wire.Name(number) for number in sorted(self._members)]
        self._numbers = {member: number for number, member in self._members.items()}
        if unreadable is not None:
            self._numbers[unreadable] = 0
        self._default = default

    def read(self, number: int, path: str) -> E:
        """Return the member of a number. Raise InvalidArgument."""
        member = self._members.get(number, self._default if number == 0 else None)
        if member is None:
            shown = "is missing" if number == 0 else f"has the unknown value {number}"
            message = f"{path} {shown}; it must be one of {', '.join(self._constants)}"
            raise InvalidArgument.at(path, "INVALID_ENUM_VALUE", message)
        return member

    def read_optional(self, number: int, path: str) -> E | None:
        """Return the member of a number, None for the unspecified one. Raise InvalidArgument."""
        return None if number == 0 else self.read(number, path)

    def members(self) -> list[E]:
        """Return the members in the order of their numbers."""
        return [self._members[number] for number in sorted(self._members)]

    def write(self, member: E) -> Any:
        """Return the number of a member, typed to fit any enum field."""
        return self._numbers[member]


PROPERTY_TYPE = EnumMap(event_definitions_pb2.PropertyType, "PROPERTY_TYPE_", PropertyType)
UNKNOWN_PROPERTIES = EnumMap(
    event_definitions_pb2.UnknownProperties, "UNKNOWN_PROPERTIES_", UnknownProperties, UnknownProperties.REJECT
)
COERCION_MODE = EnumMap(event_definitions_pb2.CoercionMode, "COERCION_MODE_", CoercionMode, CoercionMode.LENIENT)
COMPATIBILITY = EnumMap(event_definitions_pb2.Compatibility, "COMPATIBILITY_", Compatibility, Compatibility.NONE)
DIRECTION = EnumMap(event_definitions_pb2.Incompatibility.Direction, "DIRECTION_", Direction)
COERCION_KIND = EnumMap(event_pb2.Coercion.Kind, "KIND_", CoercionKind)
UNDEFINED_EVENTS = EnumMap(projects_pb2.UndefinedEvents, "UNDEFINED_EVENTS_", UndefinedEvents, UndefinedEvents.REJECT)
UNKNOWN_CONTACTS = EnumMap(projects_pb2.UnknownContacts, "UNKNOWN_CONTACTS_", UnknownContacts, UnknownContacts.REJECT)
ERASURE = EnumMap(projects_pb2.Erasure, "ERASURE_", Erasure, Erasure.DELETE_ALL)
REFUSED_EVENTS = EnumMap(projects_pb2.RefusedEvents, "REFUSED_EVENTS_", RefusedEvents, RefusedEvents.DROP)
NAME_CASE = EnumMap(projects_pb2.NameCase, "NAME_CASE_", NameCase, NameCase.SENSITIVE)
DIALECT = EnumMap(projects_pb2.Dialect, "DIALECT_", Dialect, Dialect.NATIVE)
AUTOMATION_STATE = EnumMap(
    automations_pb2.AutomationState,
    "AUTOMATION_STATE_",
    AutomationState,
    AutomationState.DRAFT,
    AutomationState.UNREADABLE,
)
ENTRY_RULE = EnumMap(automations_pb2.EntryRule, "ENTRY_RULE_", EntryRule, EntryRule.EVERY_TIME, EntryRule.UNREADABLE)
MATCH_KIND = EnumMap(match_pb2.Match.Kind, "KIND_", MatchKind)
LOG_END = EnumMap(match_stream_pb2.LogEnd, "LOG_END_", LogEnd, LogEnd.LATEST)
DELIVERY_ORDER = EnumMap(match_stream_pb2.DeliveryOrder, "DELIVERY_ORDER_", DeliveryOrder, DeliveryOrder.POSITION)
DELIVERY_OUTCOME = EnumMap(match_stream_pb2.DeliveryOutcome, "DELIVERY_OUTCOME_", SettleOutcome)
NACK_ACTION = EnumMap(match_stream_pb2.NackAction, "NACK_ACTION_", NackAction, NackAction.RETRY)
PARKING_CAUSE = EnumMap(match_stream_pb2.ParkedMatch.Cause, "CAUSE_", ParkingCause)
RUN_STATUS = EnumMap(automations_pb2.RunStatus, "RUN_STATUS_", RunStatus)
RUN_OUTCOME = EnumMap(automations_pb2.RunOutcome, "RUN_OUTCOME_", RunOutcome, RunOutcome.COMPLETED)
VERDICT = EnumMap(automations_pb2.Verdict, "VERDICT_", Verdict)
REASON_KIND = EnumMap(automations_pb2.OutsideReason.Kind, "KIND_", BlockingKind)
BATCH_MODE = EnumMap(event_ingest_pb2.BatchMode, "BATCH_MODE_", BatchMode, BatchMode.ALL_OR_NOTHING)


class View(StrEnum):
    """How much of an event a result repeats."""

    RECEIPT = "receipt"
    COERCED = "coerced"
    MATCHES = "matches"


RESULT_VIEW = EnumMap(event_ingest_pb2.ResultView, "RESULT_VIEW_", View)
