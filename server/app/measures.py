"""The metrics of a server, and the traces that it exports."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.app.lifecycle import begin
from server.background.clock_watch import ClockWatch
from server.background.loop_delay import LoopDelay
from server.metrics import Metrics
from server.tracing.tracer import open_tracer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.settings import Settings
    from server.tracing.tracer import Tracer


@dataclass(frozen=True, slots=True)
class Measures:
    """The metrics, and the tracer if spans are exported."""

    metrics: Metrics
    tracer: Tracer | None


@asynccontextmanager
async def measuring(settings: Settings) -> AsyncIterator[Measures]:
    """Watch the delay of the event loop and steps of the clock, and export spans."""
    measures = Measures(Metrics(), open_tracer() if settings.otel else None)
    async with AsyncExitStack() as stack:
        begin(stack, ClockWatch(measures.metrics))
        if measures.tracer is not None:
            stack.push_async_callback(measures.tracer.close)
        delay = LoopDelay(measures.metrics)
        delay.start()
        stack.callback(delay.stop)
        yield measures
