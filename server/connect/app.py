"""The ASGI application of Connect: finds the RPC of a request, has its call served, and sends the response.

    find the RPC by its path ── check the headers ── serve the call (`rpc.calls`) ── send the response or the error

The RPCs are those of the contract's descriptors; none is listed by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import structlog

from registry.errors import SignalboxError
from registry.suggestions import Suggestions
from server.connect.codecs import Codec, codecs
from server.connect.request import ConnectRequest
from server.connect.server_sent_events import WATCH_METHOD, WATCH_PARSER, WATCH_PATH, WatchCall
from server.connect.streams import StreamCall
from server.connect.unary import UnaryCall, send_error
from server.current_call.context import REQUEST_ID
from server.current_call.wait import begin_wait
from server.errors import NotOverHttp
from server.http.body import ClientGone
from server.http.errors import MethodNotAllowed, RouteNotFound, UnsupportedMediaType
from server.rpc.call_limits import MAX_MESSAGE_BYTES
from server.rpc.contract import SERVICES
from server.rpc.method import Method, served_methods
from signalbox.v1 import options_pb2

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping

    from server.connect.request import Receive, Send
    from server.rpc.calls import Calls

log = structlog.get_logger()

PREFIX: Final = b"/signalbox.v1."
"""The prefix of the paths of all RPCs, and of no path of a dialect."""

_LABEL: Final = "connect"
"""The label of its requests in the metrics, beside the names of dialects."""

_CLOSE: Final = (b"connection", b"close")
_REQUEST_ID: Final = REQUEST_ID.encode()


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """An RPC at its path: the codecs by media type, and whether its calls wait as long as their callers asked."""

    method: Method
    codecs: Mapping[bytes, Codec]
    waits: bool

    def codec(self, request: ConnectRequest) -> Codec:
        """Return the codec of a request. Raise MethodNotAllowed, NotOverHttp and UnsupportedMediaType."""
        if request.method != "POST":
            raise MethodNotAllowed(request.method, request.path, ["POST"])
        codec = self.codecs.get(request.headers.get(b"content-type", b"")) or self.codecs.get(request.media_type())
        if codec is None:
            _check_requests(self.method)
            given = request.headers.get(b"content-type", b"").decode("latin-1")
            raise UnsupportedMediaType(given, [name.decode() for name in self.codecs])
        return codec


class Connect:
    """Serves the RPCs of the contract. `servicers` are by service name; JSON has at most `max_json` bytes."""

    def __init__(self, calls: Calls, servicers: Mapping[str, object], *, max_json: int = 1024 * 1024) -> None:
        self._calls = calls
        self._open_calls = calls.open_calls
        self._endpoints = {
            f"/{service.full_name}/{method.descriptor.name}".encode(): _Endpoint(
                method, codecs(method.descriptor, MAX_MESSAGE_BYTES, max_json), method.waits
            )
            for service in SERVICES
            for method in served_methods(service, servicers.get(service.name))
        }
        watching = f"/{WATCH_METHOD.containing_service.full_name}/{WATCH_METHOD.name}".encode()
        self._watching = self._endpoints[watching].method

    def serves(self, path: bytes) -> bool:
        """Return whether a path is one of this application."""
        return path.startswith(PREFIX) or path == WATCH_PATH

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        began = perf_counter()
        request = ConnectRequest(scope, receive, send)
        try:
            status = await self._serve(request, scope, scope["exchange"].task)
        except ClientGone:
            return
        except SignalboxError as error:
            status = await send_error(request, error, (*_allowed(error), *self._extra(request)))
        except Exception as error:
            log.exception("request_failed", method=request.method, path=request.path)
            status = await send_error(request, error, self._extra(request))
        path = scope["raw_path"]
        route = path.decode() if path in self._endpoints or path == WATCH_PATH else ""
        self._calls.metrics.count_request(_LABEL, status, route, perf_counter() - began)

    def _serve(self, request: ConnectRequest, scope: Mapping[str, Any], task: asyncio.Task[Any]) -> Awaitable[int]:
        """Return a coroutine that serves a call and returns its status. Raise errors of requests that are no calls."""
        if scope["raw_path"] == WATCH_PATH:
            return self._watch(request, scope, task)
        endpoint = self._endpoints.get(scope["raw_path"])
        if endpoint is None:
            raise RouteNotFound(request.method, request.path, self._meant(request.path))
        codec = endpoint.codec(request)
        if endpoint.method.descriptor.server_streaming:
            self._end_with_client(scope, task)
            return self._stream(endpoint.method, codec, request, task)
        self._end_with_client(scope, task, begin_wait().end if endpoint.waits else _answer_nevertheless)
        return self._answer(endpoint.method, codec, request, task)

    async def _answer(self, method: Method, codec: Codec, request: ConnectRequest, task: asyncio.Task[Any]) -> int:
        """Serve a call with one response, and return the status."""
        request.check()
        request.begin_deadline(self._open_calls, task)
        call = UnaryCall(request, codec, self._calls.loop_time)
        try:
            try:
                response = await self._calls.answer(method, codec.parser, call, task)
            finally:
                request.end_deadline()
            if call.error is not None:
                return await send_error(request, call.error, self._extra(request))
            await call.send_response(response, self._extra(request))
        finally:
            call.end()
        return 200

    async def _stream(self, method: Method, codec: Codec, request: ConnectRequest, task: asyncio.Task[Any]) -> int:
        """Serve a call with a stream of responses, and return the status."""
        call = StreamCall(request, codec, self._calls.loop_time, self._extra(request))
        try:
            _check_requests(method)
            request.check()
            request.begin_deadline(self._open_calls, task)
            try:
                await self._calls.stream(method, codec.parser, call)
            finally:
                request.end_deadline()
        except SignalboxError as error:
            await call.fail(error)
        return 200

    async def _watch(self, request: ConnectRequest, scope: Mapping[str, Any], task: asyncio.Task[Any]) -> int:
        """Serve WatchMatches as server-sent events, and return the status. Raise MethodNotAllowed."""
        if request.method != "GET":
            raise MethodNotAllowed(request.method, request.path, ["GET"])
        request.check()
        call = WatchCall(request, scope["query_string"], self._extra(request))
        self._end_with_client(scope, task)
        await self._calls.stream(self._watching, WATCH_PARSER, call)
        return call.status

    def _end_with_client(
        self, scope: Mapping[str, Any], task: asyncio.Task[Any], half_close: Callable[[], None] | None = None
    ) -> None:
        """End the call of a task once its client has gone."""
        scope["exchange"].on_disconnect(lambda: self._open_calls.end(task, ClientGone()), half_close)

    def _meant(self, path: str) -> str:
        """Return the path that was probably meant, empty if none is close."""
        prefix = PREFIX.decode()
        names = [known.decode().removeprefix(prefix) for known in self._endpoints]
        meant = Suggestions(names).closest(unquote(path.removeprefix(prefix)).strip("/"))
        return prefix + meant if meant else ""

    def _extra(self, request: ConnectRequest) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers that every response to a request has at the moment."""
        identified = (_REQUEST_ID, request.request_id)
        # The client's next request must go to another server.
        return (identified, _CLOSE) if self._open_calls.leaving.is_set() else (identified,)

    def end_calls(self) -> None:
        """Do nothing: the calls in progress are ended as those of gRPC are."""


def _answer_nevertheless() -> None:
    """Do nothing when the client half-closes: its call does not wait, and is answered."""


def _check_requests(method: Method) -> None:
    """Raise NotOverHttp for an RPC that takes a stream of requests."""
    descriptor = method.descriptor
    if descriptor.client_streaming:
        raise NotOverHttp(descriptor.name, descriptor.GetOptions().Extensions[options_pb2.alternative])


def _allowed(error: SignalboxError) -> tuple[tuple[bytes, bytes], ...]:
    if isinstance(error, MethodNotAllowed):
        return ((b"allow", ", ".join(error.allowed).encode()),)
    if isinstance(error, UnsupportedMediaType):
        return ((b"accept-post", ", ".join(error.supported).encode()),)
    return ()
