"""The OpenAPI document, generated from the routes of the dialects.

Every dialect is described under its own mount, because several share paths; clients may omit the mount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from server.version import version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from server.bridge.dialect import RestDialect
    from server.bridge.routes import Route

    Describe = Callable[[Any], dict[str, Any]]


def document(
    dialects: Iterable[RestDialect],
    more_paths: Mapping[str, dict[str, Any]] | None = None,
    more_schemas: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all endpoints of all dialects, and of the paths that others describe."""
    paths: dict[str, dict[str, Any]] = dict(more_paths or {})
    components: dict[str, Any] = dict(more_schemas or {})
    tags = []
    for dialect in dialects:
        describe, own = _describer(dialect)
        components |= own
        tags.append({"name": dialect.name.value, "description": dialect.title})
        for route in dialect.routes:
            path = paths.setdefault(f"/{dialect.name}{route.path}", {})
            path[route.method.lower()] = _operation(dialect, route, describe)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Signalbox", "version": version()},
        "servers": [{"url": "/", "description": "The server that this document was read from"}],
        "security": [{"key": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": components,
        },
    }


def _describer(dialect: RestDialect) -> tuple[Describe, dict[str, Any]]:
    """Return a function from a type of a dialect to its JSON Schema, and the components these schemas refer to."""
    types = list({id(kind): kind for kind in (dialect.error_type, *_types(dialect.routes))}.values())
    reference = f"#/components/schemas/{dialect.name}."
    schemas, parts = msgspec.json.schema_components(types, ref_template=reference + "{name}")
    by_id = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    return lambda kind: by_id[id(kind)], {f"{dialect.name}.{name}": part for name, part in parts.items()}


def _types(routes: Iterable[Route]) -> Iterator[Any]:
    for route in routes:
        yield from (kind for kind in (route.body, *route.responses.values()) if kind is not None)


def _operation(dialect: RestDialect, route: Route, describe: Describe) -> dict[str, Any]:
    handler = route.handler.__name__
    described: dict[str, Any] = {
        "operationId": f"{dialect.name}.{route.method.lower()}.{handler}.{route.path.count('/')}",
        "summary": route.summary,
        "tags": [dialect.name.value],
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            **{str(status): _content("Success", describe(kind)) for status, kind in route.responses.items()},
            "default": _content("Error", describe(dialect.error_type)),
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
