"""The attacks, by their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.siege.attacks.conditions import LongConditions
from tests.siege.attacks.floods import Batches, Scans, Singles, Streams
from tests.siege.attacks.heads import EndlessHeads, LargeHeads, Pipelining

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.siege.attacks.attack import Attack

ATTACKS: Final[Mapping[str, type[Attack]]] = {
    "1": LongConditions,
    "3a": EndlessHeads,
    "3b": LargeHeads,
    "3c": Pipelining,
    "5a": Streams,
    "5b": Batches,
    "5c": Scans,
    "5d": Singles,
}
