"""What every attack has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from tests.siege.target import Assault


class Attack(ABC):
    """Made anew for each time it is run, in the process of the attacker."""

    what: ClassVar[str]

    peak_growth: ClassVar[int | None] = None
    """The most memory in MiB that the server may take for it, if that is less than for other attacks."""

    has_floor: ClassVar[bool] = True
    """Whether it can be made against a gRPC server that does nothing."""

    over_tls: ClassVar[bool] = False
    """Whether the server speaks TLS, to the neighbour, too."""

    async def prepare(self, assault: Assault) -> None:  # noqa: B027 - many need nothing
        """Make what the attack needs, before the time in which the neighbour is measured alone."""

    @abstractmethod
    async def run(self, assault: Assault) -> None:
        """Attack until the time is over."""
