"""The memory and the processor time of a process, as the kernel counts them."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024


class Memory:
    """The resident memory of a process, in MiB."""

    def __init__(self, process: int) -> None:
        self._folder = Path(f"/proc/{process}")

    def now(self) -> int:
        """Return how much is resident now."""
        return self._read("VmRSS")

    def peak(self) -> int:
        """Return the most that was resident since `forget_peak`."""
        return self._read("VmHWM")

    def forget_peak(self) -> None:
        """Make the kernel note the peak anew."""
        (self._folder / "clear_refs").write_text("5")

    async def fallen(self, to: int, within: float) -> tuple[int, float]:
        """Wait until no more than an amount is resident; return what is in the end, and after how many seconds."""
        begun = time.monotonic()
        while (now := self.now()) > to and time.monotonic() - begun < within:  # noqa: ASYNC110 - memory does not tell
            await asyncio.sleep(0.1)
        return now, time.monotonic() - begun

    def _read(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", (self._folder / "status").read_text(), re.MULTILINE)
        assert found, f"the kernel does not tell {name}"
        return int(found[1]) * 1024 // MIB


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used, with all its threads."""
    # The name of the program, in parentheses, may hold anything.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
