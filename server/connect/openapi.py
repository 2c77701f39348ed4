"""The RPCs in the OpenAPI document, from their descriptors: paths, and JSON Schemas of their messages.

OpenAPI has no word for a stream of messages: there the schema is that of each message, and the description says how
they are framed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import FieldDescriptor

from server.connect.errors import PRECISE_STATUSES, STATUSES, error_json
from server.connect.examples import EXAMPLES
from server.connect.server_sent_events import WATCH_METHOD, WATCH_PATH
from server.errors import InvalidArgument, KeyInvalid
from server.rpc.contract import SERVICES
from server.rpc.json_writing import enum_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.descriptor import Descriptor, MethodDescriptor

_JSON: Final = "application/json"
_STREAM: Final = "application/connect+json"

_ERROR = {
    "type": "object",
    "required": ["code", "message", "details"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "value", "debug"],
                "properties": {"type": {"type": "string"}, "value": {"type": "string"}, "debug": {"type": "object"}},
            },
        },
    },
    "examples": [
        error_json(
            InvalidArgument.at("event.propertes", "UNKNOWN_FIELD", "event.propertes is not a field of EventInput")
        ),
        error_json(KeyInvalid()),
    ],
}

_WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.FileDescriptorSet": {"type": "object"},
}
_SCALARS: dict[int, dict[str, Any]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "pattern": "^[0-9]+$"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
}


_FRAMED: Final = (
    "Each message has five bytes before it: one of flags, and its length as a big-endian number. The last one has the"
    " flag 2, and the `error` if there was one."
)
_EVENTS: Final = (
    "Server-sent events: `data` is a {message} as JSON, and `id` its cursor. Comments are heartbeats, and the last"
    " event may be an `error`."
)


def rpc_paths() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the paths of the RPCs that are served over HTTP, and the schemas that they refer to, by name."""
    schemas: dict[str, Any] = {"connect.Error": _ERROR}
    paths = {
        f"/{service.full_name}/{method.name}": {"post": _operation(method, schemas)}
        for service in SERVICES
        for method in service.methods
        if not method.client_streaming
    }
    return {**paths, WATCH_PATH.decode(): {"get": _watching(schemas)}}, schemas


def _operation(method: MethodDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    request, response = _message(method.input_type, schemas), _message(method.output_type, schemas)
    described: dict[str, Any] = {
        "operationId": f"{method.containing_service.name}.{method.name}",
        "summary": f"{method.name} over Connect",
        "tags": [method.containing_service.name],
    }
    if method.server_streaming:
        return {
            **described,
            "description": f"Both bodies are streams, of one request and of responses. {_FRAMED}",
            "requestBody": {"required": True, "content": {_STREAM: {"schema": request}}},
            "responses": {
                "200": _content("Success, or an error at the end", response, _STREAM),
                **_errors(PRECISE_STATUSES),
            },
        }
    sent, returned = EXAMPLES.get(method.name, (None, None))
    body = _content("", request, example=sent)["content"]
    return {
        **described,
        "requestBody": {"required": True, "content": body},
        "responses": {"200": _content("Success", response, example=returned), **_errors()},
    }


def _watching(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the operation of WatchMatches as server-sent events."""
    _message(WATCH_METHOD.output_type, schemas)
    parameters, maps = [], []
    for name, field in _query_fields(WATCH_METHOD.input_type):
        if _is_map(field):
            maps.append(f"`{name}.NAME`")
        else:
            parameters.append({"name": name, "in": "query", "schema": _field(field, schemas)})
    resumed = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
    events = _EVENTS.format(message=WATCH_METHOD.output_type.name)
    return {
        "operationId": f"{WATCH_METHOD.containing_service.name}.{WATCH_METHOD.name}.events",
        "summary": f"{WATCH_METHOD.name} as server-sent events",
        "description": f"{events} There are also the parameters {' and '.join(maps)}.",
        "tags": [WATCH_METHOD.containing_service.name],
        "parameters": [*parameters, resumed],
        "responses": {"200": _content("Success", {"type": "string"}, "text/event-stream"), **_errors()},
    }


def _query_fields(descriptor: Descriptor, prefix: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """Yield the parameters of a query that are the fields of a message, by name."""
    for field in descriptor.fields:
        kind = field.message_type
        if kind is None or _is_map(field) or kind.full_name in _WELL_KNOWN:
            yield prefix + field.name, field
        else:
            yield from _query_fields(kind, f"{prefix}{field.name}.")


def _errors(statuses: Iterable[int] = STATUSES) -> dict[str, Any]:
    """Return the responses with an error."""
    return {str(status): _content("Error", {"$ref": "#/components/schemas/connect.Error"}) for status in statuses}


def _content(description: str, schema: dict[str, Any], media_type: str = _JSON, example: Any = None) -> dict[str, Any]:
    shown = {} if example is None else {"example": example}
    return {"description": description, "content": {media_type: {"schema": schema, **shown}}}


def _message(descriptor: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a message, which is described once, in `schemas`."""
    name = descriptor.full_name
    if name in _WELL_KNOWN:
        return _WELL_KNOWN[name]
    if name not in schemas:
        # Before its fields, which may be of the same type.
        schemas[name] = described = {"type": "object", "additionalProperties": False}
        described["properties"] = {field.json_name: _field(field, schemas) for field in descriptor.fields}
        # Some generators read the schemas in their order: each one stands after those that it refers to.
        schemas[name] = schemas.pop(name)
    return {"$ref": f"#/components/schemas/{name}"}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    message = field.message_type
    if message is not None and _is_map(field):
        value = message.fields_by_name["value"]
        # Generators name the class of an object without a name by its title: that of Push.headers is not PushHeaders.
        title = f"{field.json_name}ByName"
        return {"type": "object", "title": title, "additionalProperties": _single(value, schemas)}
    single = _single(field, schemas)
    return {"type": "array", "items": single} if field.is_repeated else single


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _single(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        return _message(field.message_type, schemas)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return {"type": "string", "enum": [value.name for value in enum_of(field).values]}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "format": "byte"}
    return _SCALARS.get(field.cpp_type, {"type": "string"})
