"""The service Projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from server.model import Quota, Rules
from server.paging import PageRequest
from server.rpc.messages.enums import (
    DIALECT,
    ERASURE,
    NAME_CASE,
    REFUSED_EVENTS,
    UNDEFINED_EVENTS,
    UNKNOWN_CONTACTS,
    EnumMap,
)
from server.rpc.messages.retention import read_project_retention, write_project_retention
from server.rpc.messages.times import read_duration, read_timestamp, timestamp
from server.rpc.response_size import write_page
from server.version import version
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from server.auth.caller import Caller
    from server.model import ApiKey, Project
    from server.services.projects import Projects

_RULES: dict[str, EnumMap[Any]] = {
    "undefined_events": UNDEFINED_EVENTS,
    "unknown_contacts": UNKNOWN_CONTACTS,
    "name_case": NAME_CASE,
    "erasure": ERASURE,
    "refused_events": REFUSED_EVENTS,
}


_QUOTA: tuple[Literal["events_per_second", "event_burst", "events_per_day"], ...] = (
    "events_per_second",
    "event_burst",
    "events_per_day",
)


class ProjectsServicer:
    """Manages projects and their keys."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    async def CreateProject(self, request: pb.CreateProjectRequest, _caller: Caller) -> pb.CreateProjectResponse:
        given = request.project
        project = await self._projects.create(
            given.name, Rules(**_read_rules(given)), read_project_retention(given) or 0, _read_quota(given)
        )
        return pb.CreateProjectResponse(project=write_project(project))

    async def GetProject(self, request: pb.GetProjectRequest, _caller: Caller) -> pb.GetProjectResponse:
        return pb.GetProjectResponse(project=write_project(await self._projects.get(request.project)))

    async def ListProjects(self, request: pb.ListProjectsRequest, _caller: Caller) -> pb.ListProjectsResponse:
        page = await self._projects.list(PageRequest(request.page_size, request.page_token))
        response = pb.ListProjectsResponse()
        response.next_page_token = write_page(page, write_project, response.projects)
        return response

    async def UpdateProject(self, request: pb.UpdateProjectRequest, _caller: Caller) -> pb.UpdateProjectResponse:
        project = await self._projects.update(
            request.project,
            name=request.name if request.HasField("name") else None,
            rules=_read_rules(request),
            event_retention=read_project_retention(request),
            quota={name: getattr(request, name) for name in _QUOTA if request.HasField(name)},
            etag=request.etag,
        )
        return pb.UpdateProjectResponse(project=write_project(project))

    async def DeleteProject(self, request: pb.DeleteProjectRequest, _caller: Caller) -> pb.DeleteProjectResponse:
        project, counts = await self._projects.delete(
            request.project, request.confirm_name, request.etag, validate_only=request.validate_only
        )
        return pb.DeleteProjectResponse(project=write_project(project), **counts)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, _caller: Caller) -> pb.CreateApiKeyResponse:
        key, secret = await self._projects.create_key(
            request.project,
            DIALECT.read(request.dialect, "dialect"),
            request.scopes,
            request.description,
            request.secret,
            name=request.name,
            expires_at=read_timestamp(request, "expires_at"),
        )
        return pb.CreateApiKeyResponse(api_key=write_key(key), secret=secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, _caller: Caller) -> pb.ListApiKeysResponse:
        page = await self._projects.keys(request.project, PageRequest(request.page_size, request.page_token))
        response = pb.ListApiKeysResponse()
        response.next_page_token = write_page(page, write_key, response.api_keys)
        return response

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, _caller: Caller) -> pb.RevokeApiKeyResponse:
        return pb.RevokeApiKeyResponse(api_key=write_key(await self._projects.revoke_key(request.id)))

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, _caller: Caller) -> pb.RotateApiKeyResponse:
        key, secret = await self._projects.rotate_key(request.id, read_duration(request, "grace") or 0)
        return pb.RotateApiKeyResponse(api_key=write_key(key), secret=secret)

    async def WhoAmI(self, _request: pb.WhoAmIRequest, caller: Caller) -> pb.WhoAmIResponse:
        project, key = await self._projects.who_is(caller)
        return pb.WhoAmIResponse(
            project=None if project is None else write_project(project),
            api_key=None if key is None else write_key(key),
            admin=caller.admin,
            server_version=version(),
        )


def _read_rules(message: pb.Project | pb.UpdateProjectRequest) -> dict[str, Any]:
    """Read the rules that are set."""
    rules = {name: numbers.read_optional(getattr(message, name), name) for name, numbers in _RULES.items()}
    return {name: rule for name, rule in rules.items() if rule is not None}


def _read_quota(message: pb.Project) -> Quota:
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
