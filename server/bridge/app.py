"""The ASGI application: finds the route of a request, calls its handler, and writes the response.

    identify the mount ── authenticate the key ── find the route, count it ── check the scope ── read the body ── handle

The dialect is that of the key, which the mount in the path, if any, must match. An error at any step is written in the
key's dialect, or before a key is authenticated in the likely ones (`dialects.identification`). Every response is JSON.

There is no web framework: routing by key and by undecoded segments would be ours anyway, and the rest of one costs as
much as everything else in a request (an echo: 85 us on the bare server, 180 us with a framework).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from registry.errors import SignalboxError
from server.auth.caller import ADMIN
from server.bridge.dialects import DIALECTS
from server.bridge.dialects.identification import (
    SINGLE_HEADERS,
    dialects_of_path,
    key_header_allowed,
    likely_dialects,
    secret_of,
)
from server.bridge.errors import NO_DIALECT, RuleBroken, headers_of, report_error
from server.bridge.messages import Request, Response
from server.bridge.metrics_page import METRICS_PATH
from server.bridge.rate_limits import RateLimiter
from server.bridge.routes import RouteTable
from server.current_call.call_log import SLOW_SECONDS, CallLog
from server.current_call.context import REQUEST_ID, REST, begin_call, set_dialect
from server.errors import InternalError, KeyInvalid, KeyMissing, Stopping
from server.http.body import ClientGone, decode_body, read_body, small_body
from server.http.errors import (
    BodiesTooLarge,
    MethodNotAllowed,
    RepeatedHeader,
    RouteNotFound,
    TooManyReads,
)
from server.http.headers import repeated_header
from server.metrics.calls import UNKNOWN_ROUTE
from server.sharing.fair_queue import FairTurns
from server.status import reason_of
from server.tracing.context import TRACEPARENT, receive_trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from server.auth.access import Access
    from server.auth.caller import Caller
    from server.bridge.dialect import RestDialect
    from server.bridge.operations import Services
    from server.bridge.routes import Route
    from server.bridge.system_pages import SystemPage, SystemPages
    from server.http.body import Bodies
    from server.metrics import Metrics
    from server.tracing.tracer import Tracer

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Headers = tuple[tuple[bytes, bytes], ...]

log = structlog.get_logger()

_JSON = b"application/json"
_READING = frozenset({"GET", "HEAD"})
_REQUEST_ID: Final = REQUEST_ID.encode()
_TRACEPARENT: Final = TRACEPARENT.encode()
_BODILESS = _READING | {"DELETE"}
"""Methods whose bodies are read, because some clients send one, and ignored."""

READS: Final = 64
"""Reads that are served at the same time, until the client has read a large response: each may be some megabytes."""

READS_OF_PROJECT: Final = 8
"""The share of one project; more than there are connections to read with would only wait there."""

READ_WAIT_SECONDS: Final = 10.0
"""The time for which a read waits for others."""

_encode = msgspec.json.Encoder().encode


class _Mount:
    """A dialect as it is served: its routes by path, and the quotas of its keys."""

    def __init__(self, dialect: RestDialect, *, rate_limits: bool) -> None:
        self.dialect = dialect
        self.routes = RouteTable(dialect.routes)
        self.limiter = RateLimiter(dialect.rate_limit, enforced=rate_limits)


class _Exchange:
    """A request in progress. How an error is written depends on the fields set so far."""

    __slots__ = (
        "headers",
        "method",
        "mount",
        "path",
        "reads_for",
        "reason",
        "received",
        "repeated",
        "request_id",
        "respond",
        "response_headers",
        "route",
    )

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        self.headers: Mapping[bytes, bytes] = scope["exchange"].headers
        self.repeated = (
            repeated_header(scope["headers"], SINGLE_HEADERS) if len(self.headers) < len(scope["headers"]) else b""
        )
        self.request_id = begin_call(self.headers.get(_REQUEST_ID, b"").decode("latin-1"), REST).encode()
        receive_trace(self.headers.get(_TRACEPARENT, b"").decode("latin-1"))
        self.reason = ""
        self.received = 0  # bytes of the body
        self.respond = scope["exchange"].respond
        self.mount: _Mount | None = None
        self.route: Route | None = None
        self.response_headers: tuple[tuple[bytes, bytes], ...] = ()
        self.reads_for: int | None = None  # the project that has a turn for this request

    def identified(self, headers: Headers) -> Headers:
        """Return the headers of a response with the request ID; a dialect may have one of its own."""
        if any(name == _REQUEST_ID for name, _ in headers):
            return headers
        return (*headers, (_REQUEST_ID, self.request_id))

    @property
    def name(self) -> str:
        """The method and the template of the path, which name a request in logs and traces."""
        return f"{self.route.method} {self.route.path}" if self.route else UNKNOWN_ROUTE


class Bridge:
    """Serves the dialects, and the pages of `system` beside them."""

    def __init__(
        self,
        access: Access,
        services: Services,
        system: SystemPages,
        metrics: Metrics,
        *,
        bodies: Bodies,
        rate_limits: bool = False,
        call_log: CallLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._log = call_log or CallLog()
        self._tracer = tracer
        self._access = access
        self._calls: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._services = services
        self._system = system
        self._metrics = metrics
        self._bodies = bodies
        self._reads = FairTurns(READS, READS_OF_PROJECT)
        self._mounts = {dialect.name.value: _Mount(dialect, rate_limits=rate_limits) for dialect in DIALECTS}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        began = perf_counter()
        exchange = _Exchange(scope)
        if exchange.path in self._system.pages and exchange.method in _READING and not exchange.repeated:
            try:
                page = await self._page(exchange)
            except SignalboxError as error:
                response = self._error_response(exchange, error)
                status = response.status
                content = _encode(response.body)
                await exchange.respond(status, content, _JSON, exchange.identified(response.headers))
            else:
                status = page.status
                await exchange.respond(status, page.content, page.media_type, exchange.identified(()))
            self._metrics.observe_page(exchange.path, status, perf_counter() - began)
            return
        try:
            await self._respond(exchange, scope, receive, began)
        finally:
            if exchange.reads_for is not None:
                self._reads.release(exchange.reads_for)

    async def _respond(self, exchange: _Exchange, scope: Mapping[str, Any], receive: Receive, began: float) -> None:
        task: asyncio.Task[Any] = scope["exchange"].task
        self._calls.add(task)
        span = None if self._tracer is None else self._tracer.begin_call(exchange.method)
        try:
            response = await self._handle(exchange, scope, receive)
        except ClientGone:
            if self._tracer is not None and span is not None:
                self._tracer.end_call(span, "CLIENT_GONE")
            return
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            response = self._error_response(exchange, Stopping(cut_off=True))
        except Exception as error:
            response = self._error_response(exchange, error)
        finally:
            self._calls.discard(task)
            self._ended.discard(task)
        headers = exchange.identified((*exchange.response_headers, *response.headers))
        if self._system.leaving:
            # The client's next request must go to another server.
            headers = (*headers, (b"connection", b"close"))
        content = _encode(response.body)
        await exchange.respond(response.status, content, _JSON, headers)
        self._record(exchange, response.status, perf_counter() - began, len(content))
        if self._tracer is not None and span is not None:
            span.update_name(exchange.name)
            self._tracer.end_call(span, exchange.reason, **{"http.response.status_code": response.status})

    def _record(self, exchange: _Exchange, status: int, seconds: float, sent: int) -> None:
        """Count an answered request, and log it if required."""
        route = exchange.route
        dialect = exchange.mount.dialect.name if exchange.mount else ""
        self._metrics.count_request(dialect, status, route.path if route else "", seconds)
        change = route is not None and route.changes
        if exchange.reason or seconds > SLOW_SECONDS or change or (self._log.every and self._log.samples()):
            self._log.write(
                exchange.name,
                exchange.reason,
                seconds,
                change=change,
                status=status,
                bytes_in=exchange.received,
                bytes_out=sent,
            )

    def end_calls(self) -> None:
        """Respond with 503 to the requests in progress."""
        for task in self._calls:
            self._ended.add(task)
            task.cancel()

    async def _page(self, exchange: _Exchange) -> SystemPage:
        """Return a page of the system. Raise KeyInvalid and AdminRequired for metrics with another key."""
        if exchange.path == METRICS_PATH and b"authorization" in exchange.headers:
            caller = await self._access.authenticate_secret(secret_of(exchange.headers))
            caller.authorize(ADMIN)
            return await self._system.complete_metrics()
        return await self._system.page(exchange.path)

    async def _handle(self, exchange: _Exchange, scope: Mapping[str, Any], receive: Receive) -> Response:
        if exchange.repeated:
            raise RepeatedHeader(exchange.repeated.decode("latin-1"))
        caller, mount = await self._authenticate(exchange)
        route, params = self._find_route(exchange, mount, caller)
        caller.authorize(route.scope)
        if route.changes:
            self._services.health.check_open()
        if exchange.method in _READING:
            await self._take_turn(exchange, caller.project_pk)
        limit = self._bodies.limit
        request = Request(caller, params, scope["query_string"], exchange.headers, b"")
        body = small_body(scope["exchange"], limit)
        if body is not None:
            request.body = self._decoded(exchange, body)
            exchange.received = len(request.body)
            return await route.handler(self._services, request)
        held = self._bodies.held_by(caller.project_pk)
        try:
            body = await read_body(exchange.headers, receive, limit, held)
            await self._bodies.turn(caller.project_pk, held)
            # Both may take long, and the key may have ended meanwhile.
            await self._access.authenticate_secret(secret_of(exchange.headers))
            request.body = self._decoded(exchange, body)
            held.shrink(len(request.body))
            exchange.received = len(request.body)
            del body
            return await route.handler(self._services, request)
        finally:
            held.shrink(0)

    def _decoded(self, exchange: _Exchange, body: bytes) -> bytes:
        """Return the JSON text of a body. Raise as `decode_body` does."""
        return b"" if exchange.method in _BODILESS else decode_body(exchange.headers, body, self._bodies.limit)

    async def _take_turn(self, exchange: _Exchange, project_pk: int) -> None:
        """Wait for one of the reads that are served at the same time. Raise TooManyReads."""
        try:
            async with asyncio.timeout(READ_WAIT_SECONDS):
                await self._reads.acquire(project_pk)
        except TimeoutError:
            raise TooManyReads from None
        exchange.reads_for = project_pk

    async def _authenticate(self, exchange: _Exchange) -> tuple[Caller, _Mount]:
        """Return the caller and the mount of its dialect. Raise KeyMissing, KeyInvalid and RouteNotFound."""
        named = self._take_mount(exchange)
        secret = secret_of(exchange.headers)
        if not secret:
            self._check_path(exchange)
            raise KeyMissing
        caller = await self._access.authenticate_secret(secret)
        mount = self._mounts.get(caller.dialect)
        if mount is None or named not in {None, mount} or not key_header_allowed(mount.dialect, exchange.headers):
            raise KeyInvalid
        set_dialect(mount.dialect.name.value)
        exchange.mount = mount
        exchange.response_headers = mount.dialect.headers
        return caller, mount

    def _check_path(self, exchange: _Exchange) -> None:
        """Raise RouteNotFound or MethodNotAllowed for a path that no dialect has; called for requests without a key."""
        if exchange.path in self._system.pages:
            raise MethodNotAllowed(exchange.method, exchange.path, sorted(_READING))
        if exchange.mount is None and not dialects_of_path(exchange.path):
            raise RouteNotFound(exchange.method, exchange.path)

    def _take_mount(self, exchange: _Exchange) -> _Mount | None:
        """Return the mount that the path names, as in `/<dialect>/events`, and remove its segment from the path."""
        first, _, rest = exchange.path[1:].partition("/")
        mount = self._mounts.get(first)
        if mount is not None:
            exchange.mount = mount
            exchange.path = f"/{rest}"
        return mount

    def _find_route(self, exchange: _Exchange, mount: _Mount, caller: Caller) -> tuple[Route, dict[str, str]]:
        """Return the route and its parameters; count the request, even if it has no route.

        Raise RouteNotFound, MethodNotAllowed and RateLimited.
        """
        method = "GET" if exchange.method == "HEAD" else exchange.method
        try:
            exchange.route, params = mount.routes.find(method, exchange.path)
        finally:
            exchange.response_headers += mount.limiter.take(caller.key_id, exchange.route)
        return exchange.route, params

    def _error_response(self, exchange: _Exchange, error: Exception) -> Response:
        """Write an error in the dialect of the key, or in those that the request is likely to speak.

        If there are several, the body has the fields of each, and the first one decides the status.
        """
        exchange.reason = (error.report.code or "RULE_BROKEN") if isinstance(error, RuleBroken) else reason_of(error)
        if not isinstance(error, (SignalboxError, RuleBroken)):
            route = exchange.route.path if exchange.route else UNKNOWN_ROUTE
            log.error("request_failed", method=exchange.method, route=route, exc_info=error)
        elif isinstance(error, (BodiesTooLarge, TooManyReads)):
            self._metrics.refusals.count(error.reason)
        elif isinstance(error, InternalError):
            log.error("storage_refused", exc_info=error.__cause__)
        dialects = [exchange.mount.dialect] if exchange.mount else likely_dialects(exchange.headers, exchange.path)
        if not dialects:
            reported = report_error(NO_DIALECT, error)
            return Response(reported.status, {"error": reported.message}, headers_of(error))
        if not exchange.response_headers:
            exchange.response_headers = tuple(header for dialect in dialects for header in dialect.headers)
        group = exchange.route.error_group if exchange.route else ""
        status = report_error(dialects[0].error_table, error, group).status
        body: dict[str, Any] = {}
        for dialect in reversed(dialects):
            reported = replace(report_error(dialect.error_table, error, group), status=status)
            body |= dialect.write_error(reported, error, group)
        return Response(status, body, headers_of(error))
