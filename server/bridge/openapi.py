"""The OpenAPI documents, generated from the routes of the dialects.

There is one of the whole server and one of each dialect. Several dialects share paths, so that the whole one describes
each under its own mount; the document of a dialect has the paths that its clients use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from server.bridge.dialect import DemoEvent
from server.bridge.documented_errors import error_examples
from server.bridge.routes import RouteTable
from server.errors import IdempotencyKeyReused
from server.ingest.draft import MAX_IDEMPOTENCY_KEY
from server.version import version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from server.bridge.dialect import RestDialect
    from server.bridge.routes import Route

    Describe = Callable[[Any], dict[str, Any]]

_KEY: Final = "key"
_ROOT: Final = {"url": "/", "description": "The server that this document was read from"}

EXAMPLE: Final = DemoEvent(
    "order_completed",
    "ada@example.com",
    "01a221cd-e458-708e-8a2f-ee30e11afaad",
    {"order_total": 129.99, "currency": "USD", "is_first_purchase": True},
)
"""The event that the examples send."""


def document_path(dialect: RestDialect) -> str:
    """Return the path at which the document of a dialect is served."""
    return f"/openapi/{dialect.name}.json"


def document(
    dialects: Iterable[RestDialect],
    more_paths: Mapping[str, dict[str, Any]] | None = None,
    more_schemas: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all endpoints of all dialects, and of the paths that others describe."""
    listed = tuple(dialects)
    paths: dict[str, Any] = dict(more_paths or {})
    schemas: dict[str, Any] = dict(more_schemas or {})
    for dialect in listed:
        of_dialect, components = _paths(dialect, f"/{dialect.name}")
        paths |= of_dialect
        schemas |= components
    own = "\n".join(f"- {dialect.title}: `{document_path(dialect)}`" for dialect in listed)
    description = f"A dialect stands here under its mount. These documents have the paths of its clients:\n\n{own}"
    return _document("Signalbox", description, [_ROOT], listed, paths, schemas)


def dialect_document(dialect: RestDialect) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of one dialect, with the paths that its clients use."""
    paths, schemas = _paths(dialect, "")
    servers = [
        _ROOT,
        {"url": f"/{dialect.name}", "description": "Its mount, for clients with a path in their base URL"},
    ]
    description = f"The API of {dialect.title}, as Signalbox serves it to keys of this dialect."
    return _document(f"Signalbox: {dialect.title}", description, servers, [dialect], paths, schemas)


def _document(
    title: str,
    description: str,
    servers: list[dict[str, str]],
    dialects: Iterable[RestDialect],
    paths: Mapping[str, Any],
    schemas: Mapping[str, Any],
) -> dict[str, Any]:
    headers = {
        dialect.name.value: {"type": "apiKey", "in": "header", "name": dialect.key_header.decode()}
        for dialect in dialects
        if dialect.key_header
    }
    tags = [{"name": dialect.name.value, "description": dialect.title} for dialect in dialects]
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": version()},
        "servers": servers,
        "security": [{_KEY: []}],
        "tags": tags,
        "paths": paths,
        "components": {"securitySchemes": {_KEY: {"type": "http", "scheme": "bearer"}, **headers}, "schemas": schemas},
    }


def _paths(dialect: RestDialect, mount: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the paths of a dialect under a mount, and the schemas that they refer to, by name."""
    describe, schemas = _describer(dialect)
    example = _Example(dialect)
    paths: dict[str, Any] = {}
    for route in dialect.routes:
        path = paths.setdefault(mount + route.path, {})
        path[route.method.lower()] = _operation(dialect, route, describe, example)
    return paths, schemas


class _Example:
    """The call of a dialect that sends an event, which its operation has as an example."""

    def __init__(self, dialect: RestDialect) -> None:
        self.call = dialect.demo_call(EXAMPLE)
        self.response = msgspec.to_builtins(self.call.response)
        self.route, self.params = RouteTable(dialect.routes).find("POST", self.call.path)


def _describer(dialect: RestDialect) -> tuple[Describe, dict[str, Any]]:
    """Return a function from a type of a dialect to its JSON Schema, and the components these schemas refer to."""
    types = list({id(kind): kind for kind in (dialect.error_type, *_types(dialect.routes))}.values())
    reference = f"#/components/schemas/{dialect.name}."
    schemas, parts = msgspec.json.schema_components(types, ref_template=reference + "{name}")
    _complete_arrays(parts)
    by_id = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    for part in parts.values():
        # Generators would name a class by it, and dialects have the same ones.
        part.pop("title", None)
    return lambda kind: by_id[id(kind)], {f"{dialect.name}.{name}": part for name, part in parts.items()}


def _complete_arrays(schema: Any) -> None:
    """Add a schema of the items to arrays without one, because some generators need it."""
    if isinstance(schema, dict):
        if schema.get("type") == "array":
            schema.setdefault("items", {})
        for part in schema.values():
            _complete_arrays(part)
    elif isinstance(schema, list):
        for part in schema:
            _complete_arrays(part)


def _types(routes: Iterable[Route]) -> Iterator[Any]:
    for route in routes:
        yield from (kind for kind in (route.body, *route.responses.values()) if kind is not None)


def _operation(dialect: RestDialect, route: Route, describe: Describe, example: _Example) -> dict[str, Any]:
    handler = route.handler.__name__
    shown = route.handler is example.route.handler
    params = example.params if shown else {}
    described: dict[str, Any] = {
        "operationId": f"{dialect.name}.{route.method.lower()}.{handler}.{route.path.count('/')}",
        "summary": route.summary,
        "tags": [dialect.name.value],
        "parameters": [*_path_parameters(route, params), *_query_parameters(route), *_header_parameters(route)],
        "responses": {
            **{
                str(status): content("Success", describe(kind), example.response if shown else None)
                for status, kind in route.responses.items()
            },
            **{
                str(status): _errors(describe(dialect.error_type), bodies)
                for status, bodies in error_examples(dialect, route).items()
            },
            "default": content("Error", describe(dialect.error_type)),
        },
    }
    if dialect.key_header:
        described["security"] = [{_KEY: []}, {dialect.name.value: []}]
    if route.body is not None:
        body = content("", describe(route.body), example.call.body if shown else None)["content"]
        described["requestBody"] = {"required": True, "content": body}
    return described


def content(description: str, schema: Mapping[str, Any], example: Any = None) -> dict[str, Any]:
    """Return a response with a JSON body, and an example of it if there is one."""
    media: dict[str, Any] = {"schema": schema}
    if example is not None:
        media["example"] = example
    return {"description": description, "content": {"application/json": media}}


def _errors(schema: Mapping[str, Any], bodies: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response of the errors with one status; `bodies` has an example of each by its reason."""
    response = content(", ".join(bodies), schema)
    response["content"]["application/json"]["examples"] = {reason: {"value": body} for reason, body in bodies.items()}
    return response


def _path_parameters(route: Route, examples: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for segment in route.segments:
        if segment.startswith("{"):
            name = segment[1:-1]
            shown = {"example": examples[name]} if name in examples else {}
            schema = {"type": "string", "minLength": 1}
            yield {"name": name, "in": "path", "required": True, "schema": schema, **shown}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.query is None:
        return
    (_,), parts = msgspec.json.schema_components([route.query])
    described = parts[route.query.__name__]
    for name, schema in described["properties"].items():
        yield {"name": name, "in": "query", "required": name in described.get("required", ()), "schema": schema}


def _header_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if IdempotencyKeyReused.reason in route.errors:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "The same request with the same key is recorded once, and returns the first response again",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY},
        }
