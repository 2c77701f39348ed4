"""The log of a server: how its entries are written, bounded and masked, and outages in few of them."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def _without_rich(name: str) -> ModuleType:
    """Import a module that does without rich where it is not installed."""
    if "rich" in sys.modules:
        return import_module(name)
    sys.modules["rich"] = None  # type: ignore[assignment]  # so that its import fails
    try:
        return import_module(name)
    finally:
        del sys.modules["rich"]


# structlog imports rich for coloured tracebacks, which this log never shows: they take 3 MB of a server's memory.
structlog = _without_rich("structlog")
