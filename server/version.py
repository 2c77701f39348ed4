"""The distribution of this program."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Final

DISTRIBUTION: Final = "signalbox-events"
"""Its name in package registries, where `signalbox` is another project."""

POSTGRES_EXTRA: Final = f"{DISTRIBUTION}[postgres]"
OTEL_EXTRA: Final = f"{DISTRIBUTION}[otel]"


@cache
def version() -> str:
    """Return the installed version, `unknown` for a program that is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
