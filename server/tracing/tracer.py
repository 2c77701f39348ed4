"""Exports spans by OpenTelemetry, if the server is started with --otel.

    <RPC or route>   SERVER     the call; a child of the caller's span
    ingest           INTERNAL   its events, from the queue to the response; stored as their traceparent
    commit           INTERNAL   the group commit that stored them; a child of `ingest`
    match            INTERNAL   the matches of them, if there are any; a child of `commit`
    deliver          PRODUCER   a match, from its recording until it is handed to a consumer; a child of `ingest`
    push             CLIENT     a request to a receiver, which gets it as its traceparent; a child of `ingest`

A span that has ended goes into a bounded queue, which a thread exports; if it is full, spans are dropped. So nothing
here waits for a collector. Where, and which traces are sampled, is set by the standard variables OTEL_*.

The library is an extra, and imported only if it is used.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from server.current_call.context import current
from server.tracing.context import continue_trace, current_trace
from server.version import OTEL_EXTRA, version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanKind

SERVICE: Final = "signalbox"
FLUSH_SECONDS: Final = 5.0
"""The time for the last spans to be exported when the server stops."""

_MICRO: Final = 1_000
_SECOND: Final = 1_000_000_000


class Tracer:
    """Begins and ends spans. Its methods are called on the event loop, and never wait."""

    def __init__(self, provider: TracerProvider, exporter: SpanExporter) -> None:
        from opentelemetry import trace

        self._exporter = exporter
        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE, version())
        self._ok, self._failed = trace.Status(trace.StatusCode.OK), trace.Status(trace.StatusCode.ERROR)

    async def close(self) -> None:
        """Export the last spans, if that takes no longer than FLUSH_SECONDS."""
        flushing = asyncio.create_task(asyncio.to_thread(self._provider.force_flush))
        await asyncio.wait({flushing}, timeout=FLUSH_SECONDS)
        if not flushing.done():
            # Ends its pauses between attempts, in which it would wait for a collector that does not answer.
            self._exporter.shutdown()
        closing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait({flushing, closing}, timeout=FLUSH_SECONDS)

    def begin_call(self, name: str, **attributes: Any) -> Span:
        """Begin the span of a call, as a part of which the current task goes on."""
        span = self._begin(name, current_trace(), self._api.SpanKind.SERVER, attributes)
        continue_trace(traceparent_of(span))
        return span

    def end_call(self, span: Span, reason: str, **attributes: Any) -> None:
        """End the span of a call, with the reason why it failed, if it did."""
        call = current()
        span.set_attributes({"signalbox.request_id": call.request_id, "signalbox.door": call.api, **attributes})
        if call.project_id:
            span.set_attribute("signalbox.project", call.project_id)
        if reason:
            span.set_status(self._failed)
            span.set_attribute("error.type", reason)
        span.end()

    def begin_ingest(self, events: int, done: asyncio.Future[None]) -> str:
        """Begin the span of a valid batch, which ends when that is decided. Return its traceparent."""
        span = self._begin("ingest", current_trace(), self._api.SpanKind.INTERNAL, {"signalbox.events": events})
        done.add_done_callback(lambda _: span.end())
        return traceparent_of(span)

    def committed(self, traceparent: str, seconds: float, events: int, matches: int) -> None:
        """Add the commit of a batch, which took some seconds, and the matches of its events."""
        now = time.time_ns()
        began = now - round(seconds * _SECOND)
        commit = self._record("commit", traceparent, began, now, {"signalbox.events": events})
        if matches:
            self._record("match", traceparent_of(commit), began, now, {"signalbox.matches": matches})

    def delivered(self, traceparent: str, match_id: str, matched_at: int, attempt: int, subscription: str) -> None:
        """Add a match, recorded at a time in microseconds, that was handed to a consumer."""
        facts = {
            "messaging.system": SERVICE,
            "messaging.destination.name": subscription,
            "messaging.message.id": match_id,
            "signalbox.attempt": attempt,
        }
        now = time.time_ns()
        self._record("deliver", traceparent, min(now, matched_at * _MICRO), now, facts, self._api.SpanKind.PRODUCER)

    def begin_push(self, traceparent: str, webhook_id: str, attempt: int) -> Span:
        """Begin the span of a request to a receiver."""
        facts = {"messaging.system": SERVICE, "messaging.message.id": webhook_id, "signalbox.attempt": attempt}
        return self._begin("push", traceparent, self._api.SpanKind.CLIENT, facts)

    def end_push(self, span: Span, status: int, failure: str) -> None:
        """End the span of a request; `status` is 0 if there was no response."""
        if status:
            span.set_attribute("http.response.status_code", status)
        if failure:
            span.set_status(self._failed)
        span.end()

    def _begin(
        self, name: str, parent: str, kind: SpanKind, attributes: Mapping[str, Any], began: int | None = None
    ) -> Span:
        return self._tracer.start_span(name, _context(parent), kind, attributes, start_time=began)

    def _record(
        self,
        name: str,
        parent: str,
        began: int,
        ended: int,
        attributes: Mapping[str, Any],
        kind: SpanKind | None = None,
    ) -> Span:
        span = self._begin(name, parent, kind or self._api.SpanKind.INTERNAL, attributes, began)
        span.end(ended)
        return span


def open_tracer() -> Tracer:
    """Return a tracer that exports over OTLP. Raise ValueError if the extra is not installed, or for its variables."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ValueError(f"--otel needs the extra: pip install '{OTEL_EXTRA}'") from error
    own = Resource({SERVICE_NAME: SERVICE, SERVICE_VERSION: version()})
    try:
        provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        exporter = OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ValueError as error:
        raise ValueError(f"--otel cannot use the variables OTEL_*: {error}") from error
    return Tracer(provider, exporter)


def traceparent_of(span: Span) -> str:
    """Return the traceparent of a span."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"


def _context(traceparent: str) -> Any:
    """Return the library's context of a parent; one without a span for an empty traceparent."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if not traceparent:
        return Context()
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(parent), Context())
