"""Projects and their API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from server.model import Quota
from server.rpc.messages.enums import (
    DIALECT,
    ERASURE,
    NAME_CASE,
    REFUSED_EVENTS,
    UNDEFINED_EVENTS,
    UNKNOWN_CONTACTS,
    EnumMap,
)
from server.rpc.messages.retention import write_project_retention
from server.rpc.messages.times import timestamp
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from server.model import ApiKey, Project

_RULES: dict[str, EnumMap[Any]] = {
    "undefined_events": UNDEFINED_EVENTS,
    "unknown_contacts": UNKNOWN_CONTACTS,
    "name_case": NAME_CASE,
    "erasure": ERASURE,
    "refused_events": REFUSED_EVENTS,
}

QUOTA: tuple[Literal["events_per_second", "event_burst", "events_per_day"], ...] = (
    "events_per_second",
    "event_burst",
    "events_per_day",
)
"""The fields of a quota, in a project and in its update."""


def read_rules(message: pb.Project | pb.UpdateProjectRequest) -> dict[str, Any]:
    """Read the rules that are set."""
    rules = {name: numbers.read_optional(getattr(message, name), name) for name, numbers in _RULES.items()}
    return {name: rule for name, rule in rules.items() if rule is not None}


def read_quota(message: pb.Project) -> Quota:
    """Read the quota of a project."""
    return Quota(message.events_per_second, message.event_burst, message.events_per_day)


def write_project(project: Project) -> pb.Project:
    """Write a project."""
    rules: dict[str, Any] = {name: numbers.write(getattr(project.rules, name)) for name, numbers in _RULES.items()}
    return pb.Project(
        id=project.id,
        name=project.name,
        head_position=project.head_position,
        created_at=timestamp(project.created_at),
        updated_at=timestamp(project.updated_at),
        etag=project.etag,
        event_retention=write_project_retention(project.event_retention),
        events_per_second=project.quota.events_per_second,
        event_burst=project.quota.event_burst,
        events_per_day=project.quota.events_per_day,
        **rules,
    )


def write_key(key: ApiKey) -> pb.ApiKey:
    """Write a key."""
    return pb.ApiKey(
        id=key.id,
        project_id=key.project_id,
        description=key.description,
        dialect=DIALECT.write(key.dialect),
        scopes=sorted(key.scopes),
        hint=key.hint,
        created_at=timestamp(key.created_at),
        revoked_at=_optional(key.revoked_at),
        name=key.name,
        expires_at=_optional(key.expires_at),
        last_used_at=_optional(key.last_used_at),
        previous_secret_expires_at=_optional(key.previous_expires_at),
    )


def _optional(time: int | None) -> Timestamp | None:
    return None if time is None else timestamp(time)
