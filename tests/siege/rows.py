"""Every row of the siege, in the order in which they are run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.siege.attacks.rows import ATTACKS
from tests.siege.incidents.clocks import different_clocks, stepped_clock
from tests.siege.incidents.files import deleted_file, removed_lock, replaced_file
from tests.siege.incidents.keys import revoked_key
from tests.siege.incidents.outages import frozen_database, full_disk, held_lock
from tests.siege.incidents.requests import ambiguous_http, forged_tokens, pages_without_key
from tests.siege.stage import besiege

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.siege.report import Report
    from tests.siege.stage import Plan

OVERLOAD: Final = "overload"
OVERLOAD_TIMES: Final = 7.5
"""How much longer than other attacks the overload lasts: a minute beside eight seconds."""


async def overload(plan: Plan) -> Report:
    """Send three times what the server can store."""
    return await besiege(OVERLOAD, replace(plan, seconds=OVERLOAD_TIMES * plan.seconds))


ROWS: Final[Mapping[str, Callable[[Plan], Awaitable[Report]]]] = {
    **{row: partial(besiege, row) for row in ATTACKS if row != OVERLOAD},
    "6": revoked_key,
    "7a": deleted_file,
    "7b": replaced_file,
    "7c": removed_lock,
    "9a": full_disk,
    "9b": held_lock,
    "9c": frozen_database,
    "10a": stepped_clock,
    "10b": different_clocks,
    "11": ambiguous_http,
    "12": forged_tokens,
    "14": pages_without_key,
    OVERLOAD: overload,
}
"""The attacks by row. There is no row 13: those of outages check the log, too."""


def chosen(rows: str) -> list[str]:
    """Return the rows that a list names: `3` means all of 3a, 3b and so on. Raise ValueError for an unknown one."""
    if not rows:
        return list(ROWS)
    found: list[str] = []
    for name in rows.split(","):
        named = [row for row in ROWS if row == name or (row[:-1] == name and row[-1].isalpha())]
        if not named:
            raise ValueError(f"There is no row {name}; there are {', '.join(ROWS)}")
        found += named
    return found
