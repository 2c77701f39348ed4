"""The services of the contract, from their descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.v1 import (
    audit_pb2,
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    projects_pb2,
    refusals_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

_FILES = (
    event_definitions_pb2,
    event_ingest_pb2,
    contacts_pb2,
    automations_pb2,
    match_stream_pb2,
    refusals_pb2,
    projects_pb2,
    audit_pb2,
)

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()
)
SERVICE_NAMES = tuple(service.full_name for service in SERVICES)
