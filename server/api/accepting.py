"""A gRPC server that accepts many calls at a time.

The server of the library accepts one call, of all methods and connections, in about four rounds of the event loop, with
a new task, a wait for all queues and a hop to another thread for each. So calls that arrive together wait in a queue of
the library, where projects do not get fair shares, and a flooded server spends its time on rounds. Here each method has
a queue of its own (a registered method), with tasks that wait for its calls:

    method    registered before the start, with one task
    call      its task starts to serve it, starts one more such task, up to a number, and waits for the next call
    stop      the library fails the waits, and the tasks end

With 64 calls in flight a server takes 1.7 times as many single sends, at 0.6 of the CPU time for each.

A thread of the library announces events to the event loop, four or five for each call, with a byte each in a socket.
The loop's reader handles all events that have happened, but takes only one byte, so that each further byte costs a
round of the loop. Once the socket holds some 280 bytes, the thread waits until a round takes one, and the calls of all
callers wait with it. Here the reader takes all bytes first (`taking_all_bytes`).

The library has no setting for this, so this module uses some of its internals. `_internals_known` checks that they have
the expected form; if not, the library's own server is used, which is correct, but slower.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Handlers = Mapping[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]]

ACCEPTORS: Final = 64
"""The tasks that wait for calls of one method, once that many have come: as many as a round of the loop, which takes
7 ms under a flood, can serve. With 16, most of 3,000 calls of one project waited in the library, and others' with them.
"""

STREAM_ACCEPTORS: Final = 8
"""The same for a method with a stream of responses. A stream takes 0.3 ms to begin, and 64 of them in one round of the
loop held up a single send, which takes several rounds, for 70 ms."""

ACCEPTING: Final = "accept-calls"
"""The name of these tasks."""

FAILED_SECONDS: Final = 0.1
"""The pause of an acceptor after a failure that the library does not have in normal operation."""

_MANY_BYTES: Final = 4_096
"""The most bytes that one call of recv() takes; if it takes as many, there may be more."""

log = structlog.get_logger()

_cython: Any = import_module("grpc._cython.cygrpc")
_library: Any = import_module("grpc.aio._server")

_INTERNALS: Final = {
    "_handle_stream_unary_rpc": ("method_handler", "rpc_state", "loop"),
    "_handle_stream_stream_rpc": ("method_handler", "rpc_state", "loop"),
    "_schedule_rpc_coro": ("rpc_coro", "rpc_state", "loop", "method_name"),
    "AioServer._make_request_call_future": ("self", "method_bytes"),
    "AioServer._request_registered_call": ("self", "method"),
}


def accepting_server(handlers: Handlers, options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """Return a server of handlers, all of them with a stream of requests, by service and method."""
    if not _internals_known():
        log.warning("grpc_internals_unknown", detail="Calls are accepted one by one, which is slower")
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, dict(methods)) for service, methods in handlers.items()]
        )
        return server
    server = _Server(options)
    for service, methods in handlers.items():
        server.add_registered_method_handlers(service, dict(methods))
    return server


def _internals_known() -> bool:
    try:
        return issubclass(_internal("_RequestCallError"), Exception) and all(
            tuple(signature(_internal(name)).parameters) == parameters for name, parameters in _INTERNALS.items()
        )
    except (AttributeError, TypeError, ValueError):
        return False


def _internal(name: str) -> Any:
    owner, _, member = name.rpartition(".")
    return getattr(getattr(_cython, owner) if owner else _cython, member)


@contextmanager
def taking_all_bytes(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Make every reader that is added meanwhile take all bytes of its socket before it is called.

    The library adds one with its first object on a loop. What happens after the bytes were taken writes a new one.
    """
    add_reader = loop.add_reader

    def add_taking(source: socket.socket, callback: Callable[..., None], *arguments: Any) -> None:
        def read() -> None:
            with suppress(BlockingIOError):
                while len(source.recv(_MANY_BYTES)) == _MANY_BYTES:
                    pass
            callback(*arguments)

        add_reader(source, read)

    vars(loop)["add_reader"] = add_taking
    try:
        yield
    finally:
        del vars(loop)["add_reader"]


class _Server(_library.Server):  # type: ignore[misc]
    """The library's server around `_Core`."""

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _Core(self._loop, None, (), (), tuple(options), None)


class _Core(_cython.AioServer):  # type: ignore[misc]
    """Its loop waits for calls of methods that are not served, and for the tasks here, which serve the others."""

    def __init__(self, *arguments: Any) -> None:
        with taking_all_bytes(asyncio.get_running_loop()):
            super().__init__(*arguments)
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._methods: list[bytes] = []
        self._accepting: asyncio.Task[None] | None = None

    def add_registered_method_handlers(self, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """Register methods, by the paths of their calls."""
        super().add_registered_method_handlers(handlers)
        self._handlers |= handlers

    def _make_request_call_future(self, method_bytes: bytes | None) -> Any:
        """Return the future that the library's loop awaits; called once for each method, and after every other call."""
        if method_bytes is None:
            return super()._make_request_call_future(None)
        self._methods.append(method_bytes)
        if self._accepting is None:
            self._accepting = asyncio.create_task(self._accept_all())
        return self._accepting

    async def _accept_all(self) -> None:
        async with asyncio.TaskGroup() as acceptors:
            for method in self._methods:
                streams = self._handlers[method.decode()].response_streaming
                most = STREAM_ACCEPTORS if streams else ACCEPTORS
                acceptors.create_task(self._accept(method, acceptors, most - 1), name=ACCEPTING)
        # The library's own error for a wait that ended without a call.
        raise _internal("_RequestCallError")

    async def _accept(self, method: bytes, acceptors: asyncio.TaskGroup, more: int) -> None:
        """Serve the calls of a method as they come; with the first one, start the next of `more` further acceptors."""
        loop = asyncio.get_running_loop()
        path = method.decode()
        handler = self._handlers[path]
        handle = _internal(f"_handle_stream_{'stream' if handler.response_streaming else 'unary'}_rpc")
        schedule, ended = _internal("_schedule_rpc_coro"), _internal("_RequestCallError")
        while self.is_running():
            try:
                call = await self._request_registered_call(method)
            except ended:
                continue
            except Exception:
                # Without acceptors, a method's calls would never be answered.
                log.exception("accept_failed", method=path)
                await asyncio.sleep(FAILED_SECONDS)
                continue
            if more:
                acceptors.create_task(self._accept(method, acceptors, more - 1), name=ACCEPTING)
                more = 0
            serving = loop.create_task(schedule(handle(handler, call, loop), call, loop, path))
            self._calls.add(serving)
            serving.add_done_callback(self._calls.discard)
