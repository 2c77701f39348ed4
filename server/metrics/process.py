"""The process: memory, processor time, files and garbage, by the collectors of the library; and what is running."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client import Gauge, GCCollector, PlatformCollector, ProcessCollector

from server.version import version

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def watch_process(registry: CollectorRegistry, database: str) -> None:
    """Report the process and the interpreter, and what is running on which kind of database."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    text = "1, with the versions of Signalbox and Python and the kind of database as labels."
    gauge = Gauge("signalbox_build_info", text, ("version", "python", "database"), registry=registry)
    gauge.labels(version(), platform.python_version(), database).set(1)
