"""The OpenAPI document, made of the tables of endpoints.

Every dialect stands under its own mount, where no two share a path; a client of one may leave the mount away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from server.version import version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from server.bridge.dialect import Door
    from server.bridge.routes import Route

    Describe = Callable[[Any], dict[str, Any]]


def document(doors: Iterable[Door]) -> dict[str, Any]:
    """Describe all endpoints of all dialects, in OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    components: dict[str, Any] = {}
    tags = []
    for door in doors:
        describe, own = _describer(door)
        components |= own
        tags.append({"name": door.dialect.value, "description": door.title})
        for route in door.routes:
            path = paths.setdefault(f"/{door.dialect.value}{route.path}", {})
            path[route.method.lower()] = _operation(door, route, describe)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Signalbox: the REST bridge", "version": version()},
        "security": [{"key": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": components,
        },
    }


def _describer(door: Door) -> tuple[Describe, dict[str, Any]]:
    """Give what writes the JSON Schema of a type of a dialect, and the parts that such schemas refer to."""
    types = list({id(each): each for each in (door.error_type, *_types(door.routes))}.values())
    reference = f"#/components/schemas/{door.dialect.value}."
    schemas, parts = msgspec.json.schema_components(types, ref_template=reference + "{name}")
    by_id = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    return lambda kind: by_id[id(kind)], {f"{door.dialect.value}.{name}": part for name, part in parts.items()}


def _types(routes: Iterable[Route]) -> Iterator[Any]:
    for route in routes:
        yield from (kind for kind in (route.body, *route.answers.values()) if kind is not None)


def _operation(door: Door, route: Route, describe: Describe) -> dict[str, Any]:
    handler = route.handler.__name__
    described: dict[str, Any] = {
        "operationId": f"{door.dialect.value}.{route.method.lower()}.{handler}.{route.path.count('/')}",
        "summary": route.summary,
        "tags": [door.dialect.value],
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            **{str(status): _content("Done", describe(kind)) for status, kind in route.answers.items()},
            "default": _content("Refused", describe(door.error_type)),
        },
    }
    if route.body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": describe(route.body)}}}
    return described


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for segment in route.segments:
        if segment.startswith("{"):
            schema = {"type": "string", "minLength": 1}
            yield {"name": segment[1:-1], "in": "path", "required": True, "schema": schema}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.query is None:
        return
    (_,), parts = msgspec.json.schema_components([route.query])
    described = parts[route.query.__name__]
    for name, schema in described["properties"].items():
        yield {"name": name, "in": "query", "required": name in described.get("required", ()), "schema": schema}
