"""Which subscriptions a server asks others for, so that all servers push about as many.

    A has 5, B joins with 0     B asks for two of A's: each of the requests leaves A one more than B, or as many
    A sees that they are asked  ends their sessions, and makes B their owner (`pushers.py`)
    A has 3, B has 2            nobody asks: one more is no reason to move a subscription

A server asks for a few at a time, and for none while an earlier request is open: their receivers wait for a second or
two when they move.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

STEP_SUBSCRIPTIONS: Final = 4
"""The most subscriptions that a server asks for at a time."""


class PushClaim(NamedTuple):
    """The key of a subscription, the server that pushes it, and the one that asks for it, empty if none does."""

    key: int
    owner: str
    wanted_by: str = ""


def keys_to_ask_for(claims: Sequence[PushClaim], owner: str) -> list[int]:
    """Return the keys of the subscriptions that a server asks for.

    A subscription counts for the server that asks for it, if one does: so no two servers ask for the same ones.
    """
    if any(claim.wanted_by == owner for claim in claims):
        return []
    counts = Counter(claim.wanted_by or claim.owner for claim in claims)
    movable: dict[str, list[int]] = {}
    for claim in claims:
        if not claim.wanted_by and claim.owner != owner:
            movable.setdefault(claim.owner, []).append(claim.key)
    keys: list[int] = []
    while movable and len(keys) < STEP_SUBSCRIPTIONS:
        busiest = max(movable, key=lambda server: (counts[server], server))
        if counts[busiest] - counts[owner] < 2:
            break
        keys.append(movable[busiest].pop())
        counts[busiest] -= 1
        counts[owner] += 1
        if not movable[busiest]:
            del movable[busiest]
    return keys
