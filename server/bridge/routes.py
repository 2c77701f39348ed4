"""The endpoints of a dialect as a table: what is called, who may, and what goes in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from server.errors import MethodNotAllowed, RouteNotFound, UnstorableText

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from server.bridge.messages import Reply, Request
    from server.bridge.services import Services
    from server.model import Scope

Handler: TypeAlias = "Callable[[Services, Request], Awaitable[Reply]]"
"""Serves one call; raises the errors of the services, or Refused."""


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. A segment of the path such as `{id}` takes any one segment, decoded, as a parameter.

    `topic` names the endpoints at which the same error is answered otherwise than elsewhere. `body`, `query` and
    `answers` (by status) are msgspec types; they describe the endpoint in the OpenAPI document.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope
    answers: Mapping[int, Any]
    body: Any = None
    query: Any = None
    topic: str = ""

    @property
    def summary(self) -> str:
        """What the endpoint does, as its handler says."""
        return (self.handler.__doc__ or "").partition("\n")[0].rstrip(".")

    @property
    def segments(self) -> list[str]:
        """The parts of the path between its slashes."""
        return self.path.split("/")[1:]


class RouteTable:
    """Finds the route of a path; the path is as it stands in the request, percent signs and all."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[int, list[tuple[list[str], dict[str, Route]]]] = {}
        for route in routes:
            self._methods(route)[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Find the route and the parameters in the path. Raises RouteNotFound and MethodNotAllowed."""
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
        known = self._patterns.setdefault(len(segments), [])
        for pattern, methods in known:
            if _same(pattern, segments):
                return methods
        known.append((segments, {}))
        return known[-1][1]

    def _by_pattern(self, method: str, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        given = path.split("/")[1:]
        for pattern, methods in self._patterns.get(len(given), ()):
            if all(part == own or part[0:1] == "{" for part, own in zip(pattern, given, strict=True)):
                return methods, _params(method, path, pattern, given)
        raise RouteNotFound(method, path)


def _same(one: list[str], other: list[str]) -> bool:
    return all(a == b or (a[:1] == b[:1] == "{") for a, b in zip(one, other, strict=True))


def _params(method: str, path: str, pattern: list[str], given: list[str]) -> dict[str, str]:
    """Decode the segments that have names; an escaped slash does not split a segment.

    Raises RouteNotFound and UnstorableText.
    """
    try:
        params = {
            part[1:-1]: unquote(own, errors="strict")
            for part, own in zip(pattern, given, strict=True)
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
