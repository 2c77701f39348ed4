"""Proposed definitions as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from server.rpc.messages.definitions import write_schema
from server.rpc.messages.enums import COMPATIBILITY, EnumMap
from server.rpc.messages.response_size import size_of
from server.rpc.messages.retention import write_definition_retention
from server.services.inferences import InferenceSource
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from registry.inference.inference import Finding
    from server.services.inferences import Inferred

INFERENCE_SOURCE = EnumMap(pb.InferenceSource, "INFERENCE_SOURCE_", InferenceSource)

MAX_FINDINGS_BYTES: Final = 2_000_000
"""Of properties beyond it, nothing is reported."""


def write_inferred(inferred: Inferred) -> pb.InferEventDefinitionResponse:
    """Return a proposed definition as a message."""
    response = pb.InferEventDefinitionResponse(
        event_definition=pb.EventDefinition(
            name=inferred.name,
            description=inferred.description,
            schema=write_schema(inferred.schema),
            compatibility=COMPATIBILITY.write(inferred.compatibility),
            event_retention=write_definition_retention(inferred.event_retention),
        ),
        sample_count=inferred.sample,
        quarantined_count=inferred.quarantined,
        truncated=inferred.truncated,
        conflict_count=inferred.conflicts,
    )
    room = MAX_FINDINGS_BYTES
    for finding in inferred.findings:
        message = _write_finding(finding)
        room -= size_of(message)
        if room < 0:
            break
        response.properties.append(message)
    return response


def _write_finding(finding: Finding) -> pb.InferredProperty:
    return pb.InferredProperty(
        path=finding.path,
        value_count=sum(count for _, count in finding.kinds),
        kinds=[pb.InferredProperty.Kind(kind=kind, value_count=count) for kind, count in finding.kinds],
        conflict_count=finding.conflicts,
        omitted_reason=finding.omitted,
    )
