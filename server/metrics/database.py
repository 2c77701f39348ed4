"""The database of a server: its size, its checkpoints, and the use of its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import CollectorRegistry, Metric

    from server.storage.usage import ConnectionUse, DatabaseSize

_CHECKPOINT_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class DatabaseMetrics(Collector):
    """The numbers of a database; there are none before `watch`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.checkpoints = Histogram(
            "signalbox_checkpoint_seconds",
            "How long commits of SQLite took in which the write-ahead log was written to the main file.",
            buckets=_CHECKPOINT_SECONDS,
            registry=registry,
        )
        self.size: DatabaseSize | None = None
        """Set shortly before the metrics are read (`server.background.statistics`)."""
        self._connections: Callable[[], Mapping[str, ConnectionUse]] = dict
        registry.register(self)

    def watch(self, connections: Callable[[], Mapping[str, ConnectionUse]]) -> None:
        """Set what is read whenever the metrics are, in another thread than the event loop's."""
        self._connections = connections

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without numbers."""
        yield from _sizes(None)
        yield from _uses({})

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from _sizes(self.size)
        yield from _uses(self._connections())


def _sizes(size: DatabaseSize | None) -> Iterable[Metric]:
    numbers = {
        "signalbox_database_bytes": ("Size of the database.", size and size.bytes),
        "signalbox_wal_bytes": ("Size of SQLite's write-ahead log, which is used again.", size and size.wal_bytes),
        "signalbox_disk_free_bytes": ("Free space on the disk of SQLite's file.", size and size.free_bytes),
        "signalbox_checkpoint_timestamp_seconds": (
            "When SQLite's main file was last written, which only checkpoints do.",
            size and size.checkpointed_at,
        ),
    }
    for name, (text, value) in numbers.items():
        family = GaugeMetricFamily(name, text)
        if value is not None:
            family.add_metric((), value)
        yield family


def _uses(uses: Mapping[str, ConnectionUse]) -> Iterable[Metric]:
    kinds = ("kind",)
    size = GaugeMetricFamily("signalbox_database_connections", "Connections for transactions, by kind.", labels=kinds)
    used = GaugeMetricFamily("signalbox_database_connections_in_use", "Connections in use, by kind.", labels=kinds)
    waiting = GaugeMetricFamily("signalbox_database_waiting", "Transactions that wait for their turn.", labels=kinds)
    waits = CounterMetricFamily("signalbox_database_waits", "Transactions that waited for their turn.", labels=kinds)
    waited = CounterMetricFamily(
        "signalbox_database_wait_seconds", "How long transactions waited for their turn, in all.", labels=kinds
    )
    families: Iterable[Any] = (size, used, waiting, waits, waited)
    for kind, use in uses.items():
        for family, value in zip(families, use, strict=True):
            if value is not None:
                family.add_metric((kind,), value)
    return size, used, waiting, waits, waited
