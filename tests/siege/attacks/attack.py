"""What every attack has."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from tests.siege.target import Assault


class Attack(Protocol):
    """Made anew for each time it is run, in the process of the attacker."""

    what: ClassVar[str]

    async def prepare(self, assault: Assault) -> None:
        """Make what the attack needs, before the time in which the neighbour is measured alone."""
        ...

    async def run(self, assault: Assault) -> None:
        """Attack until the time is over."""
        ...
