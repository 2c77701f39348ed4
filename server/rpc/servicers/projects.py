"""The service Projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.model import Rules
from server.paging import PageRequest
from server.rpc.messages.enums import DIALECT
from server.rpc.messages.projects import QUOTA, read_quota, read_rules, write_key, write_project
from server.rpc.messages.response_size import write_page
from server.rpc.messages.retention import read_project_retention
from server.rpc.messages.times import read_duration, read_timestamp
from server.services.api_keys import NewApiKey
from server.version import version
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from server.auth.caller import Caller
    from server.services.api_keys import ApiKeys
    from server.services.projects import Projects


class ProjectsServicer:
    """Manages projects and their keys."""

    def __init__(self, projects: Projects, keys: ApiKeys) -> None:
        self._projects = projects
        self._keys = keys

    async def CreateProject(self, request: pb.CreateProjectRequest, _caller: Caller) -> pb.CreateProjectResponse:
        given = request.project
        project = await self._projects.create(
            given.name, Rules(**read_rules(given)), read_project_retention(given) or 0, read_quota(given)
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
            rules=read_rules(request),
            event_retention=read_project_retention(request),
            quota={name: getattr(request, name) for name in QUOTA if request.HasField(name)},
            etag=request.etag,
        )
        return pb.UpdateProjectResponse(project=write_project(project))

    async def DeleteProject(self, request: pb.DeleteProjectRequest, _caller: Caller) -> pb.DeleteProjectResponse:
        project, counts = await self._projects.delete(
            request.project, request.confirm_name, request.etag, validate_only=request.validate_only
        )
        return pb.DeleteProjectResponse(project=write_project(project), **counts)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, _caller: Caller) -> pb.CreateApiKeyResponse:
        new = NewApiKey(
            DIALECT.read(request.dialect, "dialect"),
            request.scopes,
            request.description,
            request.secret,
            request.name,
            read_timestamp(request, "expires_at"),
        )
        key, secret = await self._keys.create(request.project, new)
        return pb.CreateApiKeyResponse(api_key=write_key(key), secret=secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, _caller: Caller) -> pb.ListApiKeysResponse:
        page = await self._keys.list(request.project, PageRequest(request.page_size, request.page_token))
        response = pb.ListApiKeysResponse()
        response.next_page_token = write_page(page, write_key, response.api_keys)
        return response

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, _caller: Caller) -> pb.RevokeApiKeyResponse:
        return pb.RevokeApiKeyResponse(api_key=write_key(await self._keys.revoke(request.id)))

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, _caller: Caller) -> pb.RotateApiKeyResponse:
        key, secret = await self._keys.rotate(request.id, read_duration(request, "grace") or 0)
        return pb.RotateApiKeyResponse(api_key=write_key(key), secret=secret)

    async def WhoAmI(self, _request: pb.WhoAmIRequest, caller: Caller) -> pb.WhoAmIResponse:
        project, key = await self._keys.who_is(caller)
        return pb.WhoAmIResponse(
            project=None if project is None else write_project(project),
            api_key=None if key is None else write_key(key),
            admin=caller.admin,
            server_version=version(),
        )
