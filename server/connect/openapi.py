"""The RPCs in the OpenAPI document, from their descriptors: paths, and JSON Schemas of their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from server.connect.errors import STATUSES
from server.contract import SERVICES
from server.rpc.json_writing import enum_of

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, MethodDescriptor

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
}

_WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array"},
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


def rpc_paths() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the paths of the RPCs with one response, and the schemas that they refer to, by name.

    A stream of responses has bodies in envelopes, which OpenAPI cannot describe.
    """
    schemas: dict[str, Any] = {"connect.Error": _ERROR}
    paths = {
        f"/{service.full_name}/{method.name}": {"post": _operation(method, schemas)}
        for service in SERVICES
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    }
    return paths, schemas


def _operation(method: MethodDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    request, response = _message(method.input_type, schemas), _message(method.output_type, schemas)
    error = _content("Error", {"$ref": "#/components/schemas/connect.Error"})
    return {
        "operationId": f"{method.containing_service.name}.{method.name}",
        "summary": f"{method.name} over Connect",
        "tags": [method.containing_service.name],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": _content("Success", response), **{str(status): error for status in STATUSES}},
    }


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _message(descriptor: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a message, which is described once, in `schemas`."""
    name = descriptor.full_name
    if name in _WELL_KNOWN:
        return _WELL_KNOWN[name]
    if name not in schemas:
        # Before its fields, which may be of the same type.
        schemas[name] = described = {"type": "object", "additionalProperties": False}
        described["properties"] = {field.json_name: _field(field, schemas) for field in descriptor.fields}
    return {"$ref": f"#/components/schemas/{name}"}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _single(message.fields_by_name["value"], schemas)}
    single = _single(field, schemas)
    return {"type": "array", "items": single} if field.is_repeated else single


def _single(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        return _message(field.message_type, schemas)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return {"type": "string", "enum": [value.name for value in enum_of(field).values]}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "format": "byte"}
    return _SCALARS.get(field.cpp_type, {"type": "string"})
