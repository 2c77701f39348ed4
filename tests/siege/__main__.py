"""Besiege Signalbox: attack a server as one client or tenant can, and show what its neighbour feels.

make siege                                            every row, in under 15 minutes
make siege ARGS="--rows 1,3,5 --database postgresql"  some rows, on another database
make siege ARGS="--short"                             a few rows with small inputs and generous bounds
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Final

from tests.siege.report import GENEROUS, HEADER, STRICT, Report
from tests.siege.rows import ROWS, chosen
from tests.siege.stage import Plan

SHORT: Final = "1,3a,4a,5b"
SHORT_SCALE: Final = 0.5

FLOOR_SECONDS: Final = 600.0
"""After this time no floors are measured, so that all rows take less than 15 minutes on a slow machine, too."""

RULE: Final = """\
The neighbour may wait 5 times as long as alone, or 1.25 times as long as beside a server that does nothing (floor)."""


async def siege(rows: list[str], options: argparse.Namespace) -> list[Report]:
    """Run rows one after the other, and print a line for each."""
    reports: list[Report] = []
    begun = time.monotonic()
    for row in rows:
        folder = Path(tempfile.mkdtemp(prefix="signalbox-siege-"))
        bounds, scale = (GENEROUS, SHORT_SCALE) if options.short else (STRICT, 1.0)
        floor = 0.0 if options.short or time.monotonic() - begun > FLOOR_SECONDS else options.seconds / 2
        plan = Plan(options.database, folder, bounds, options.seconds, options.alone, scale, floor)
        try:
            report = await ROWS[row](plan)
        except Exception:
            report = Report(row, "could not be run", misses=[f"logs in {folder}: {traceback.format_exc()}"])
        if not report.misses:
            shutil.rmtree(folder, ignore_errors=True)
        print(report.line(), flush=True)
        reports.append(report)
    return reports


def main() -> int:
    """Run the rows that were asked for; return 1 if what is wanted of one is not so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help=f"which rows, of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--seconds", type=float, help="how long each attack lasts (default: 8)")
    parser.add_argument("--alone", type=float, help="how long the neighbour is measured alone (default: 4)")
    parser.add_argument(
        "--database", default="sqlite", metavar="sqlite|postgresql|URL", help="the database of a URL is emptied"
    )
    parser.add_argument("--short", action="store_true", help="small inputs, short attacks and generous bounds")
    options = parser.parse_args()
    options.seconds = options.seconds or (1.0 if options.short else 8.0)
    options.alone = options.alone or (1.0 if options.short else 4.0)
    try:
        rows = chosen(options.rows or (SHORT if options.short else ""))
    except ValueError as error:
        parser.error(str(error))
    begun = time.monotonic()
    print(HEADER, flush=True)
    missed = [report for report in asyncio.run(siege(rows, options)) if report.misses]
    print(f"\n{RULE}")
    print(f"{len(rows)} rows in {time.monotonic() - begun:.0f} s, {len(missed)} missed what is wanted", flush=True)
    for report in missed:
        print(f"row {report.row}: {'; '.join(report.misses)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
