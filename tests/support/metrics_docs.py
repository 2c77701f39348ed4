"""The table of docs/metrics.md, made from the metrics of a running server: `python -m tests.support.metrics_docs`."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from server import app
from server.app import measures
from server.metrics import Metrics
from tests.support.service import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from prometheus_client import CollectorRegistry

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_BEGIN = "| metric |"
_FROM_LIBRARY = ("process_", "python_")
_UNITS = ("seconds", "bytes", "positions", "events")


class Family(NamedTuple):
    """A metric: `name` is that of its samples, but for the suffixes of histograms."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str

    @property
    def unit(self) -> str:
        """The unit of its values, `1` for a number of things that the name says."""
        words = self.name.removesuffix("_total").split("_")
        return words[-1] if words[-1] in _UNITS else "1"


def families(registry: CollectorRegistry) -> list[Family]:
    """Return the metrics of a registry, by name, without those of the process that the library names."""
    return [family for family in all_families(registry) if not family.name.startswith(_FROM_LIBRARY)]


def all_families(registry: CollectorRegistry) -> list[Family]:
    """Return the metrics of a registry, by name."""
    found = []
    for collector in list(registry._collector_to_names):
        names: Any = getattr(collector, "_labelnames", None)
        for metric in collector.collect():
            labels = names if names is not None else getattr(metric, "_labelnames", ())
            name = metric.name + ("_total" if metric.type == "counter" else "")
            found.append(Family(name, metric.type, tuple(labels), metric.documentation))
    return sorted(found)


@asynccontextmanager
async def running_registry(database: str, **changes: Any) -> AsyncIterator[tuple[app.Server, CollectorRegistry]]:
    """Run a server, and yield it with the registry of its metrics."""
    made: list[Metrics] = []

    class Kept(Metrics):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    with patch.object(measures, "Metrics", Kept):
        async with app.running(settings(database, **changes)) as server:
            yield server, made[0].registry


def table(found: Iterable[Family]) -> str:
    """Return the table of metrics."""
    rows = [
        f"| `{family.name}` | {family.type} | {family.unit} | {', '.join(f'`{label}`' for label in family.labels)}"
        f" | {family.text} |"
        for family in found
    ]
    return "\n".join([f"{_BEGIN} type | unit | labels | |", "|---|---|---|---|---|", *rows]) + "\n"


def documented_table() -> str:
    """Return the table of the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(_BEGIN))
    end = next((number for number, line in enumerate(lines[begin:], begin) if not line.startswith("|")), len(lines))
    return "\n".join(lines[begin:end]) + "\n"


async def _write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_registry(f"sqlite:///{folder}/signalbox.db") as (_, registry):
            made = table(families(registry))
    PAGE.write_text(PAGE.read_text(encoding="utf-8").replace(documented_table(), made), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_write())
