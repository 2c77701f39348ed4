"""The routes of a dialect: path, handler, required scope, and the types of bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from server.errors import UnstorableText
from server.http.errors import MethodNotAllowed, RouteNotFound
from server.model import Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from server.bridge.messages import Request, Response
    from server.bridge.operations import Services

Handler: TypeAlias = "Callable[[Services, Request], Awaitable[Response]]"
"""Handles one request; raises errors of the services, or RuleBroken."""


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. A segment of the path such as `{id}` matches any one segment and is a parameter.

    `error_group` names a group of routes on which the dialect reports some errors differently. `body`, `query` and
    `responses` (by status) are msgspec types, and `errors` the reasons of errors beside those of every route; they
    describe the endpoint in the OpenAPI document.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope
    responses: Mapping[int, Any]
    body: Any = None
    query: Any = None
    error_group: str = ""
    errors: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").partition("\n")[0].rstrip(".")

    @property
    def changes(self) -> bool:
        """Whether a request changes definitions, contacts or automations."""
        return self.method != "GET" and self.scope.endswith(":write") and self.scope != Scope.EVENTS_WRITE

    @property
    def segments(self) -> list[str]:
        """The segments of the path."""
        return self.path.split("/")[1:]


class RouteTable:
    """Finds the route of a path; the path is still percent-encoded."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[int, list[tuple[list[str], dict[str, Route]]]] = {}
        for route in routes:
            self._methods(route)[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and the parameters of a path. Raise RouteNotFound, MethodNotAllowed and UnstorableText."""
        methods, params = self._exact.get(path), dict[str, str]()
        if methods is None:
            methods, params = self._by_pattern(method, path)
        route = methods.get(method)
        if route is None:
            raise MethodNotAllowed(method, path, sorted(methods))
        return route, params

    def _methods(self, route: Route) -> dict[str, Route]:
        if "{" not in route.path:
            return self._exact.setdefault(route.path, {})
        segments = route.segments
        patterns = self._patterns.setdefault(len(segments), [])
        for pattern, methods in patterns:
            if _same(pattern, segments):
                return methods
        patterns.append((segments, {}))
        return patterns[-1][1]

    def _by_pattern(self, method: str, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        segments = path.split("/")[1:]
        for pattern, methods in self._patterns.get(len(segments), ()):
            if all(part == segment or part[0:1] == "{" for part, segment in zip(pattern, segments, strict=True)):
                return methods, _params(method, path, pattern, segments)
        raise RouteNotFound(method, path)


def _same(one: list[str], other: list[str]) -> bool:
    return all(a == b or (a[:1] == b[:1] == "{") for a, b in zip(one, other, strict=True))


def _params(method: str, path: str, pattern: list[str], segments: list[str]) -> dict[str, str]:
    """Return the decoded parameters; an encoded slash does not split a segment.

    Raise RouteNotFound and UnstorableText.
    """
    try:
        params = {
            part[1:-1]: unquote(segment, errors="strict")
            for part, segment in zip(pattern, segments, strict=True)
            if part[:1] == "{"
        }
    except UnicodeDecodeError:
        raise RouteNotFound(method, path) from None
    if not all(params.values()):
        raise RouteNotFound(method, path)
    for name, value in params.items():
        if "\0" in value:
            raise UnstorableText(name)
    return params
