"""Calls to the REST bridge, and tables of requests with their expected responses."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from registry.errors import SignalboxError
from server.bridge.dialects import DIALECTS
from server.bridge.documented_errors import error_examples
from server.bridge.routes import RouteTable
from signalbox.v1 import projects_pb2 as pb
from tests.support.service import http_client as service_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

    import httpx

    from tests.support.service import Client, Service


class Like:
    """Equals, in an expected response, every string that matches a pattern."""

    def __init__(self, name: str, pattern: str) -> None:
        self._name = name
        self._pattern = re.compile(pattern)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self._pattern.fullmatch(other) is not None

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return self._name


ID = Like("ID", "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MILLIS = Like("MILLIS", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SECONDS = Like("SECONDS", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
TEXT = Like("TEXT", r"(?s).+")
NUMBER = Like("NUMBER", r"\d+")

UNSENT: Any = object()
"""The body of a call without one."""


@dataclass(frozen=True)
class Case:
    """One call and its expected response.

    `call` is method and path, `body` JSON or raw bytes, and `given` the calls made before, each as (call, body).
    `sent` are additional headers, or replace the usual ones; `{key}` in them is the key. In later calls and in the
    expected response, `{0.data.id}` is replaced by that value of the first given call's response. `answer` is compared
    as a whole, `headers` with some of the response's headers.
    """

    what: str
    call: str
    body: Any
    status: int
    answer: Any
    given: Sequence[tuple[str, Any]] = ()
    sent: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.what


OF_DATABASE: Final = {404, 409}
"""The refusals that depend on what is stored."""


def without_repetitions(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Leave out cases on PostgreSQL that are refused without the database, or answered like an earlier one.

    That is, by the same endpoint, with the same status. How a dialect reads a request and words its response is the
    same on every database: SQLite shows all of that.
    """
    answered: set[tuple[object, ...]] = set()
    kept: list[pytest.Item] = []
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        case = parameters.get("case")
        if isinstance(case, Case) and parameters.get("backend") == "postgresql":
            answer = (item.path, case.call.partition("?")[0], case.status)
            if answer in answered or (case.status >= 300 and case.status not in OF_DATABASE):
                continue
            answered.add(answer)
        kept.append(item)
    return kept


class Caller:
    """Calls the bridge with one key; `client` calls the same project over gRPC."""

    def __init__(self, http: httpx.AsyncClient, secret: str, client: Client, dialect: str) -> None:
        self._http = http
        self.secret = secret
        self.client = client
        self._dialect = dialect

    @property
    def http(self) -> httpx.AsyncClient:
        """The HTTP client."""
        return self._http

    @property
    def base_url(self) -> str:
        """The address of the bridge."""
        return str(self._http.base_url)

    async def call(self, call: str, body: Any = UNSENT, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Make a call with the key, unless the headers replace it."""
        method, _, path = call.partition(" ")
        sent = {"authorization": f"Bearer {self.secret}", **(headers or {})}
        sent = {name: value.format(key=self.secret) for name, value in sent.items() if value}
        content: dict[str, Any] = {}
        if isinstance(body, bytes):
            content = {"content": body}
            sent.setdefault("content-type", "application/json")
        elif body is not UNSENT:
            content = {"json": body}
        response = await self._http.request(method, path, headers=sent, **content)
        assert response.headers["content-type"] == "application/json"
        return response

    async def check(self, case: Case) -> None:
        """Make the calls of a case, and compare the response."""
        earlier: list[Any] = []
        for call, body in case.given:
            response = await self.call(_filled(call, earlier), _filled(body, earlier))
            assert response.is_success, response.text
            earlier.append(response.json())
        response = await self.call(_filled(case.call, earlier), _filled(case.body, earlier), case.sent)
        assert (response.status_code, response.json()) == (case.status, _filled(case.answer, earlier))
        found = {name: response.headers.get(name) for name in case.headers}
        assert found == case.headers
        method, _, target = str(_filled(case.call, earlier)).partition(" ")
        documented = _documented(self._dialect, method, target.partition("?")[0])
        assert not documented or case.status in documented, "a status that the OpenAPI document does not have"


@asynccontextmanager
async def calling(service: Service, client: Client, dialect: str, *scopes: str) -> AsyncIterator[Caller]:
    """Yield a caller with a new key of a dialect for the client's project."""
    secret = await service.secret(client.project, pb.Dialect.Value(f"DIALECT_{dialect.upper()}"), *scopes)
    yield Caller(service.http, secret, client, dialect)


def _documented(name: str, method: str, path: str) -> set[int]:
    """Return the statuses that the OpenAPI document has for a call of a dialect; none if there is no such route."""
    [dialect] = [dialect for dialect in DIALECTS if dialect.name == name]
    try:
        route, _ = RouteTable(dialect.routes).find(method, path)
    except SignalboxError:
        return set()
    return {*route.responses, *error_examples(dialect, route)}


def http_client(service: Service) -> httpx.AsyncClient:
    """Return an HTTP client of the bridge without a key, with connections of its own."""
    return service_client(service.http_address)


_KINDS: tuple[Any, ...] = (None, True, -1.5, 10**400, "", [], [[]], {"x": []})


def mistyped(document: Any) -> Iterator[Any]:
    """Yield a JSON document with each of its values in turn replaced by values of every type."""
    yield from _KINDS
    if isinstance(document, dict):
        for name, value in document.items():
            yield from ({**document, name: other} for other in mistyped(value))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from ([*document[:index], other, *document[index + 1 :]] for other in mistyped(value))


_PLACEHOLDER = re.compile(r"\{(\d+)\.([A-Za-z0-9_.]+)\}")


def _filled(value: Any, earlier: Sequence[Any]) -> Any:
    """Return a value with its placeholders replaced by values of earlier responses."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: str(_at(earlier[int(found[1])], found[2])), value)
    if isinstance(value, dict):
        return {_filled(name, earlier): _filled(each, earlier) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, earlier) for each in value]
    return value


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    return value
