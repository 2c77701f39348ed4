"""The attacks, by their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.siege.attacks.automations import ChangedAutomations, ManyMatches
from tests.siege.attacks.conditions import LongConditions
from tests.siege.attacks.floods import Batches, RefusedEvents, Scans, Singles, Streams
from tests.siege.attacks.frames import Continuations, GrpcChurn, HttpChurn, Pings, RapidResets
from tests.siege.attacks.handshakes import (
    GrpcHalfHandshakes,
    GrpcHandshakes,
    HttpHalfHandshakes,
    HttpHandshakes,
)
from tests.siege.attacks.heads import EndlessHeads, LargeHeads, Pipelining
from tests.siege.attacks.overload import Overload
from tests.siege.attacks.sizes import (
    AllOrNothing,
    LargeBodies,
    LargeMessages,
    LargeRequests,
    LargeStreams,
    Patterns,
    WrongValues,
)
from tests.siege.attacks.unfinished import IdleConnections, UnfinishedMessages, UnfinishedMessagesOfATenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.siege.attacks.attack import Attack

ATTACKS: Final[Mapping[str, type[Attack]]] = {
    "1": LongConditions,
    "2a": ManyMatches,
    "2b": ChangedAutomations,
    "3a": EndlessHeads,
    "3b": LargeHeads,
    "3c": Pipelining,
    "3d": HttpChurn,
    "3e": RapidResets,
    "3f": Continuations,
    "3g": Pings,
    "3h": GrpcChurn,
    "3i": HttpHandshakes,
    "3j": GrpcHandshakes,
    "4a": UnfinishedMessages,
    "4b": UnfinishedMessagesOfATenant,
    "4c": IdleConnections,
    "4d": HttpHalfHandshakes,
    "4e": GrpcHalfHandshakes,
    "5a": Streams,
    "5b": Batches,
    "5c": Scans,
    "5d": Singles,
    "5e": RefusedEvents,
    "8a": Patterns,
    "8b": LargeMessages,
    "8c": WrongValues,
    "8d": AllOrNothing,
    "8e": LargeRequests,
    "8f": LargeStreams,
    "8g": LargeBodies,
    "overload": Overload,
}
