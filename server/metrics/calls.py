"""How long calls took, over gRPC and HTTP, and how many are in progress."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from prometheus_client import Gauge

from server.metrics.series import CALL_SECONDS, LoopHistogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from server.metrics.series import Observations

UNKNOWN_ROUTE: Final = "unknown"
"""The label of all paths that are no route: a path is chosen by a caller."""


class RpcSeries:
    """The calls of one RPC: their durations by code, and its open streams."""

    __slots__ = ("_by_code", "_labels", "_streams")

    def __init__(self, labels: Callable[[str], Observations], streams: Gauge | None) -> None:
        self._labels = labels
        self._by_code: dict[str, Observations] = {}
        self._streams = streams

    def count_stream(self, change: int) -> None:
        """Count a stream that is opened, or one less."""
        if self._streams is not None:
            self._streams.inc(change)

    def ended(self, code: str, seconds: float) -> None:
        """Add a call that has ended with a code."""
        series = self._by_code.get(code)
        if series is None:
            series = self._by_code[code] = self._labels(code)
        series.observe(seconds)


class CallMetrics:
    """The calls of a server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rpcs = LoopHistogram(
            "signalbox_rpc_seconds",
            "How long calls of RPCs took, over gRPC or Connect, by code; streams from their opening to their end.",
            ("service", "method", "code"),
            CALL_SECONDS,
            registry,
        )
        self._open_streams = Gauge(
            "signalbox_open_streams", "Streams in progress, by RPC.", ("service", "method"), registry=registry
        )
        self._requests = LoopHistogram(
            "signalbox_http_request_seconds",
            "How long requests over HTTP took, by dialect (`connect` for RPCs, `system` for /metrics and the like, "
            "empty if not identified), by the template of the path (`unknown` if there is none), and by status.",
            ("dialect", "route", "status"),
            CALL_SECONDS,
            registry,
        )
        self.requests = lru_cache(2_000)(self._request)

    def rpc(self, service: str, method: str, *, streams: bool) -> RpcSeries:
        """Return the series of an RPC, which its calls add to."""
        return RpcSeries(
            lambda code: self._rpcs.labels(service, method, code),
            self._open_streams.labels(service, method) if streams else None,
        )

    def _request(self, dialect: str, route: str, status: int) -> Observations:
        return self._requests.labels(dialect, route or UNKNOWN_ROUTE, str(status))
