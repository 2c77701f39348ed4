"""The memory that this process may use."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Final

_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""The files with the memory limit of a container, for control groups of version 2 and 1."""

_UNKNOWN: Final = 1 << 30
"""The memory that is assumed if the system does not report how much it has: 1 GiB."""


@cache
def usable_memory() -> int:
    """Return the bytes of memory of this machine, or of this container if its limit is lower."""
    return min([_physical(), *(limit for path in _LIMITS if (limit := _read(path)))])


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return _UNKNOWN


def _read(path: Path) -> int:
    """Return the limit in a file, or 0 if there is none."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
