"""Resources as the audit log has them: their public messages as JSON, without secrets and without what events change.

A contact is described without its address and the values of its properties, so that its entries need not be erased
with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from automation.automations import Automation
from registry.definitions.event_definitions import EventDefinition
from server.audit.audited_changes import MAX_CONTENT_BYTES, AuditedResource
from server.delivery.subscription_status import SubscriptionStatus
from server.model import ApiKey, Contact, Project
from server.rpc.json_writing import json_value
from server.rpc.messages.automations import write_automation
from server.rpc.messages.definitions import write_definition
from server.rpc.messages.projects import write_key, write_project
from server.rpc.messages.subscriptions import write_subscription
from signalbox.v1 import match_stream_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message


def describe(resource: Any) -> AuditedResource:
    """Return a resource as entries have it. Raise KeyError for a type that is not audited."""
    if isinstance(resource, Contact):
        return _describe_contact(resource)
    resource_type, write = _WRITERS[type(resource)]
    message = write(resource)
    omitted = _shorten(message)
    content = msgspec.json.encode(json_value(message)).decode()
    return AuditedResource(resource_type, message.id, content, omitted)


def _describe_contact(contact: Contact) -> AuditedResource:
    values: dict[str, Any] = {"id": contact.id, "etag": contact.etag, "propertyNames": sorted(contact.properties)}
    content = msgspec.json.encode(values).decode()
    if len(content) <= MAX_CONTENT_BYTES:
        return AuditedResource("contact", contact.id, content)
    del values["propertyNames"]
    return AuditedResource("contact", contact.id, msgspec.json.encode(values).decode(), ("propertyNames",))


def _write_subscription(status: SubscriptionStatus) -> Message:
    message = write_subscription(status)
    places = message.stats.floor_position, message.stats.read_position
    message.stats.CopyFrom(match_stream_pb2.SubscriptionStats(floor_position=places[0], read_position=places[1]))
    if message.HasField("push"):
        del message.push.secrets[:]
    return message


def _write_project(project: Project) -> Message:
    message = write_project(project)
    message.ClearField("head_position")
    return message


_WRITERS: Final[dict[type, tuple[str, Callable[[Any], Any]]]] = {
    ApiKey: ("api_key", write_key),
    Automation: ("automation", write_automation),
    EventDefinition: ("event_definition", write_definition),
    Project: ("project", _write_project),
    SubscriptionStatus: ("subscription", _write_subscription),
}


def _shorten(message: Message) -> tuple[str, ...]:
    """Clear the largest fields of a message until it is small enough. Return their names."""
    omitted: list[str] = []
    while message.ByteSize() > MAX_CONTENT_BYTES:
        largest = max((field for field, _ in message.ListFields()), key=lambda field: _size_of(message, field.name))
        omitted.append(largest.name)
        message.ClearField(largest.name)
    return tuple(omitted)


def _size_of(message: Message, name: str) -> int:
    only = type(message)()
    only.CopyFrom(message)
    only.ClearField(name)
    return message.ByteSize() - only.ByteSize()
