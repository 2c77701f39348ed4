"""What is kept of a call that has ended: its count and time, its line in the log, and its span."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from server.current_call.call_log import SLOW_SECONDS

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from server.current_call.call_log import CallLog
    from server.metrics import Metrics
    from server.rpc.method import Method
    from server.tracing.tracer import Tracer

OK: Final = "OK"


class CallRecords:
    """The records of the methods of one server."""

    def __init__(self, metrics: Metrics, call_log: CallLog, tracer: Tracer | None) -> None:
        self.metrics = metrics
        self.log = call_log
        self.tracer = tracer
        self.observed = bool(call_log.every or tracer)
        """Whether calls without an error have a line or a span as well."""
        self._by_method: dict[Method, MethodRecord] = {}

    def of(self, method: Method) -> MethodRecord:
        """Return the record of a method."""
        record = self._by_method.get(method)
        if record is None:
            record = self._by_method[method] = MethodRecord(self, method)
        return record


class MethodRecord:
    """Counts the calls of one method, and writes about them.

    A call that changes something is logged, however quick it is. One that waits as long as its caller asked it to is
    never slow.
    """

    def __init__(self, records: CallRecords, method: Method) -> None:
        service = method.descriptor.containing_service.full_name
        self.series = records.metrics.calls.rpc(service, method.descriptor.name, streams=method.streams)
        self.waits = method.waits
        self._name = method.name
        self._changes = method.changes
        self.writes = method.writes
        self._slow_seconds = 0.0 if method.changes else inf if method.waits else SLOW_SECONDS
        self._records = records

    def begin(self) -> Span | None:
        """Begin the span of a call, which is ended by `ended` or `stream_ended`; None without tracing."""
        tracer = self._records.tracer
        return None if tracer is None else tracer.begin_call(self._name)

    def ended(self, code: str, reason: str, seconds: float, span: Span | None, size: int, response: Any) -> None:
        """Count a call with one response, of a request of `size` bytes, and write its line if it is to have one."""
        self.series.ended(code, seconds)
        if code is not OK or seconds > self._slow_seconds or self._records.observed:
            self._write(code, reason, seconds, span, bytes_in=size, bytes_out=_size(response))

    def stream_ended(self, code: str, reason: str, seconds: float, span: Span | None) -> None:
        """Count a stream, and write its line if it is to have one."""
        self.series.ended(code, seconds)
        if code is not OK or self._records.observed:
            self._write(code, reason, seconds, span)

    def _write(self, code: str, reason: str, seconds: float, span: Span | None, **facts: Any) -> None:
        log, tracer = self._records.log, self._records.tracer
        if code is not OK or seconds > self._slow_seconds or log.samples():
            log.write(self._name, reason, seconds, change=self._changes, code=code, **facts)
        if tracer is not None and span is not None:
            tracer.end_call(span, reason, **{"rpc.grpc.status": code})


def _size(response: Any) -> int:
    """Return the bytes of a response, encoded or not, 0 if there is none."""
    return 0 if response is None else len(response) if isinstance(response, bytes) else int(response.ByteSize())
