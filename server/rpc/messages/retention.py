"""Retention periods of events between their messages and microseconds, in which 0 is for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from server.errors import InvalidArgument
from server.rpc.messages.times import duration, read_duration
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from signalbox.v1 import projects_pb2

MIN_RETENTION: Final = 1_000_000
MAX_RETENTION: Final = 36_500 * 86_400 * 1_000_000
"""The shortest and the longest period, in microseconds."""


def read_project_retention(message: projects_pb2.Project | projects_pb2.UpdateProjectRequest) -> int | None:
    """Read the retention of a project, None where it is not set. Raise InvalidArgument."""
    period = read_duration(message, "event_retention")
    return period if not period else _checked(period, "event_retention", "0 is for ever")


def write_project_retention(period: int) -> Duration | None:
    """Write the retention of a project."""
    return duration(period) if period else None


def read_definition_retention(message: pb.EventDefinition | pb.UpdateEventDefinitionRequest) -> int | None:
    """Read the retention of a definition, None where that of its project applies. Raise InvalidArgument."""
    retention, path = message.event_retention, "event_retention.max_age"
    period = read_duration(retention, "max_age", path)
    if period is None:
        return 0 if retention.forever else None
    return _checked(period, path, "for ever is event_retention.forever")


def write_definition_retention(period: int | None) -> pb.EventRetention | None:
    """Write the retention of a definition."""
    if period is None:
        return None
    return pb.EventRetention(max_age=duration(period)) if period else pb.EventRetention(forever=True)


def _checked(period: int, path: str, hint: str) -> int:
    if not MIN_RETENTION <= period <= MAX_RETENTION:
        text = f"{path} must be at least 1 second and at most 36,500 days; {hint}"
        raise InvalidArgument.at(path, "INVALID_DURATION", text)
    return period
