"""Torture Signalbox: kill it again and again under load, then check every promise.

make torture                                     a minute on each database
make torture ARGS="--kills 500"                  the long form
make torture ARGS="--database sqlite --seed 7"   one round that failed before
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.torture.rounds import Outcome, play
from tests.torture.senders import PACE

KINDS = ("sqlite", "postgresql")


async def torture(kind: str, kills: int, kills_a_round: int, seed: int, pace: float) -> tuple[list[Outcome], int]:
    """Play rounds on a kind of database; return their figures and how many broke a promise."""
    outcomes: list[Outcome] = []
    broken = 0
    while (left := kills - sum(each.kills.total() for each in outcomes)) > 0 and broken < 5:
        begun = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="signalbox-torture-"))
        try:
            outcome = await play(kind, seed, min(left, kills_a_round), folder, pace)
        except Exception:
            broken += 1
            print(f"{kind} seed={seed} BROKEN, logs in {folder}\n{traceback.format_exc()}", flush=True)
        else:
            outcomes.append(outcome)
            print(f"{kind} seed={seed} {time.monotonic() - begun:.0f} s: {outcome}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
        seed += 1
    return outcomes, broken


def main() -> int:
    """Torture the databases that were asked for, side by side, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=(*KINDS, "both"), default="both")
    parser.add_argument("--kills", type=int, default=40, help="how often to kill, over all databases (default: 40)")
    parser.add_argument("--kills-a-round", type=int, default=10, help="how many kills before a check (default: 10)")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))  # noqa: S311 - any will do
    parser.add_argument("--pace", type=float, default=PACE, help=f"the longest rest between sends (default: {PACE} s)")
    options = parser.parse_args()
    kinds = KINDS if options.database == "both" else (options.database,)

    async def all_kinds() -> list[tuple[list[Outcome], int]]:
        share = -(-options.kills // len(kinds))
        return await asyncio.gather(
            *(torture(kind, share, options.kills_a_round, options.seed, options.pace) for kind in kinds)
        )

    broken = 0
    for kind, (outcomes, failures) in zip(kinds, asyncio.run(all_kinds()), strict=True):
        total = Outcome(options.seed, sum((each.kills for each in outcomes), Counter()))
        for each in outcomes:
            total.clock_steps += each.clock_steps
            total.acknowledged += each.acknowledged
            total.stored += each.stored
            total.matches += each.matches
            total.deliveries += each.deliveries
        print(f"{kind}: {len(outcomes)} rounds kept every promise, {failures} did not: {total}")
        broken += failures
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
