"""The ASGI application: takes a request to the route of its dialect, and writes the answer.

The dialect is that of the key, or the one whose mount the path names. Where no key tells it, an error has the shape of
the dialect that the path, or the beginning of the key, belongs to. Every answer is JSON.

There is no web framework here: routing by key and by undecoded segments is ours anyway, and what else one brings costs
as much as all the rest of a request (an echo: 85 us on the bare server, 180 us with one).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from server.auth.access import bearer_secret
from server.bridge.body import ClientGone, decode_body, read_body
from server.bridge.dialect import Refusal
from server.bridge.dialects import DIALECTS
from server.bridge.messages import Refused, Reply, Request
from server.bridge.rate_limits import RateLimiter
from server.bridge.routes import RouteTable
from server.errors import (
    KeyInvalid,
    KeyMissing,
    MethodNotAllowed,
    RateLimited,
    RepeatedHeader,
    RouteNotFound,
    ServiceError,
    Stopping,
    StorageRefused,
    UnsupportedEncoding,
)
from server.status import KNOWN_ERRORS, answer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from server.auth.access import Access, Caller
    from server.bridge.dialect import Door
    from server.bridge.routes import Route
    from server.bridge.services import Services
    from server.bridge.system import System
    from server.metrics import Metrics

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

log = structlog.get_logger()

_JSON = b"application/json"
_READING = frozenset({"GET", "HEAD"})
_BODILESS = _READING | {"DELETE"}
"""Methods whose bodies are read, because some clients send one, and ignored."""

_SINGLE = frozenset({b"authorization", b"content-encoding", b"content-type", b"idempotency-key", b"x-api-key"})
"""Headers with a single value: of two values, a proxy in front may have used the other one."""

_encode = msgspec.json.Encoder().encode


class _Mount:
    """One dialect as it is served: its routes found by path, and its rate limit kept."""

    def __init__(self, door: Door, *, rate_limits: bool) -> None:
        self.door = door
        self.routes = RouteTable(door.routes)
        self.limiter = RateLimiter(door.limit, enforced=rate_limits)


class _Call:
    """A request on its way: what is known of it so far decides the shape of an error."""

    __slots__ = ("extra", "headers", "method", "mount", "path", "repeated", "route")

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.repeated = _repeated(scope["headers"]) if len(self.headers) < len(scope["headers"]) else b""
        self.mount: _Mount | None = None
        self.route: Route | None = None
        self.extra: tuple[tuple[bytes, bytes], ...] = ()


class Bridge:
    """Serves the dialects, and `system` beside them. Bodies hold at most so many bytes."""

    def __init__(
        self,
        access: Access,
        services: Services,
        system: System,
        metrics: Metrics,
        *,
        leaving: asyncio.Event,
        rate_limits: bool = False,
        max_body: int = 1024 * 1024,
    ) -> None:
        self._access = access
        self._leaving = leaving
        self._calls: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._services = services
        self._system = system
        self._metrics = metrics
        self._max_body = max_body
        self._mounts = {door.dialect: _Mount(door, rate_limits=rate_limits) for door in DIALECTS}
        self._by_name = {dialect.value: mount for dialect, mount in self._mounts.items()}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not served")
        call = _Call(scope)
        if call.path in self._system.pages and call.method in _READING:
            page = await self._system.page(call.path)
            await _send(send, call, page.status, page.content, page.kind)
            return
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            reply = await self._reply(call, scope["query_string"], receive)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            reply = self._refusal(call, Stopping(cut_off=True))
        except Exception as error:
            reply = self._refusal(call, error)
        finally:
            self._calls.discard(task)
            self._ended.discard(task)
        if self._leaving.is_set():
            # The next request goes to another server.
            call.extra = (*call.extra, (b"connection", b"close"))
        await _send(send, call, reply.status, _encode(reply.body), _JSON, (*call.extra, *reply.headers))
        self._metrics.count_request(call.mount.door.dialect if call.mount else "", reply.status)

    def end_calls(self) -> None:
        """Answer the requests in progress with 503."""
        for task in self._calls:
            self._ended.add(task)
            task.cancel()

    async def _reply(self, call: _Call, query: bytes, receive: Receive) -> Reply:
        if call.repeated:
            raise RepeatedHeader(call.repeated.decode("latin-1"))
        caller = await self._caller(call)
        route, params = self._route(call, caller)
        caller.require(route.scope)
        body = await read_body(call.headers, receive, self._max_body)
        body = b"" if call.method in _BODILESS else decode_body(call.headers, body, self._max_body)
        return await route.handler(self._services, Request(caller, params, query, call.headers, body))

    async def _caller(self, call: _Call) -> Caller:
        """Tell the caller, and the dialect that is spoken. Raises KeyMissing, KeyInvalid and RouteNotFound."""
        named = self._named_mount(call)
        secret = _secret(call.headers)
        if not secret:
            self._check_path(call)
            raise KeyMissing
        caller = await self._access.by_secret(secret)
        mount = self._mounts.get(caller.dialect)
        if mount is None or named not in {None, mount} or not _carried_well(mount.door, call.headers):
            raise KeyInvalid
        call.mount = mount
        call.extra = mount.door.headers
        return caller

    def _check_path(self, call: _Call) -> None:
        """Tell who has no key what is wrong with a path that no dialect has. Raises RouteNotFound, MethodNotAllowed."""
        if call.path in self._system.pages:
            raise MethodNotAllowed(call.method, call.path, sorted(_READING))
        if call.mount is None and not _doors_of_path(call.path):
            raise RouteNotFound(call.method, call.path)

    def _named_mount(self, call: _Call) -> _Mount | None:
        """Find the dialect that the path names, as in `/arsel/v1/events`, and take its name off the path."""
        first, _, rest = call.path[1:].partition("/")
        mount = self._by_name.get(first)
        if mount is not None:
            call.mount = mount
            call.path = f"/{rest}"
        return mount

    def _route(self, call: _Call, caller: Caller) -> tuple[Route, dict[str, str]]:
        """Find what is called, and count the call, whether it is served or not.

        Raises RouteNotFound, MethodNotAllowed and RateLimited.
        """
        mount = call.mount
        assert mount is not None
        try:
            call.route, params = mount.routes.find("GET" if call.method == "HEAD" else call.method, call.path)
        finally:
            call.extra += mount.limiter.take(caller.key_id, call.route)
        return call.route, params

    def _refusal(self, call: _Call, error: Exception) -> Reply:
        """Answer an error in the shape of the dialect, or of the one that the request seems to be meant for."""
        if isinstance(error, Refused):
            return Reply(error.status, error.body)
        if not isinstance(error, KNOWN_ERRORS):
            log.error("request_failed", method=call.method, path=call.path, exc_info=error)
        elif isinstance(error, StorageRefused):
            log.error("storage_refused", exc_info=error.__cause__)
        doors = [call.mount.door] if call.mount else _likely_doors(call)
        if not doors:
            answer = answer_of(None, error)
            return Reply(answer.status, {"error": answer.message}, _error_headers(error))
        call.extra = call.extra or tuple(header for door in doors for header in door.headers)
        topic = call.route.topic if call.route else ""
        bodies: dict[str, Any] = {}
        for door in reversed(doors):
            answer = answer_of(door.dialect, error, topic)
            bodies.update(door.write_error(Refusal(answer.status, answer.code, answer.message, error, topic)))
        return Reply(answer.status, bodies, _error_headers(error))


def _repeated(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the name of a single-valued header with two values, empty if there is none."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SINGLE and found.setdefault(name, value) != value:
            return name
    return b""


def _secret(headers: Mapping[bytes, bytes]) -> str:
    """Give the key that came with a request, empty where none did."""
    authorization = headers.get(b"authorization")
    if authorization is None:
        return headers.get(b"x-api-key", b"").decode("latin-1")
    try:
        return bearer_secret(authorization.decode("latin-1"))
    except KeyMissing:
        return ""


def _carried_well(door: Door, headers: Mapping[bytes, bytes]) -> bool:
    """Say whether the key came as the dialect has it."""
    authorization = headers.get(b"authorization")
    if authorization is None:
        return door.key_header in headers
    return not door.exact_scheme or (authorization.startswith(b"Bearer ") and authorization.count(b" ") == 1)


def _likely_doors(call: _Call) -> list[Door]:
    """Find whose shape an error has without a key that tells: by the key's beginning, else by the path.

    Two dialects may share a path; an answer with the fields of both is read by the clients of either.
    """
    secret = _secret(call.headers)
    by_key = [door for door in DIALECTS if secret.startswith(door.key_prefix)]
    return by_key or _doors_of_path(call.path)


def _doors_of_path(path: str) -> list[Door]:
    found = [(len(own), door) for door in DIALECTS for own in door.paths if path == own or path.startswith(f"{own}/")]
    longest = max((length for length, _ in found), default=0)
    return [door for length, door in found if length == longest]


def _error_headers(error: Exception) -> tuple[tuple[bytes, bytes], ...]:
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if isinstance(error, RateLimited):
        headers += error.headers
    if isinstance(error, UnsupportedEncoding):
        headers.append((b"accept-encoding", ", ".join(error.supported).encode()))
    if isinstance(error, ServiceError) and error.retry_after:
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    return tuple(headers)


async def _send(
    send: Send, call: _Call, status: int, content: bytes, kind: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    length = str(len(content)).encode()
    headers = [(b"content-type", kind), (b"content-length", length), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if call.method == "HEAD" else content})
