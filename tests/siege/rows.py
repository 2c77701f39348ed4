"""Every row of the siege, in the order in which they are run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tests.siege.attacks.rows import ATTACKS
from tests.siege.stage import besiege

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.siege.report import Report
    from tests.siege.stage import Plan

ROWS: Final[Mapping[str, Callable[[Plan], Awaitable[Report]]]] = {row: partial(besiege, row) for row in ATTACKS}


def chosen(rows: str) -> list[str]:
    """Return the rows that a list names: `3` means all of 3a, 3b and so on. Raise ValueError for an unknown one."""
    if not rows:
        return list(ROWS)
    found: list[str] = []
    for name in rows.split(","):
        named = [row for row in ROWS if row == name or row.rstrip("abcdefgh") == name]
        if not named:
            raise ValueError(f"There is no row {name}; there are {', '.join(ROWS)}")
        found += named
    return found
