"""The distribution that this program is installed from."""

from __future__ import annotations

from importlib import metadata
from typing import Final

DISTRIBUTION: Final = "signalbox-events"
"""Its name in package registries, where `signalbox` is another project's."""

POSTGRES_EXTRA: Final = f"{DISTRIBUTION}[postgres]"


def version() -> str:
    """Return the installed version, `unknown` for a program that runs from its sources without being installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
