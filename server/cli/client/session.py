"""The connection of one command to a server."""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click
import grpc

from server.cli.arguments.options import Connection, connection_options
from server.cli.client.call_failures import failure_of
from server.cli.client.channel import open_channel
from server.cli.client.local_admin_key import local_admin_key
from server.cli.errors import INTERRUPTED, Failure
from signalbox.v1 import projects_pb2
from signalbox.v1.audit_pb2_grpc import AuditLogStub
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.contacts_pb2_grpc import ContactsStub
from signalbox.v1.event_definitions_pb2_grpc import EventDefinitionsStub
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub
from signalbox.v1.projects_pb2_grpc import ProjectsStub
from signalbox.v1.refusals_pb2_grpc import QuarantineStub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Q = TypeVar("Q")
A = TypeVar("A")
P = ParamSpec("P")

Metadata = tuple[tuple[str, str], ...]

MAX_PROJECTS_NAMED = 10


class Session:
    """A channel to a server. Unary calls carry the key and a deadline, and raise Failure."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.channel = open_channel(connection)
        self.audit = AuditLogStub(self.channel)
        self.automations = AutomationsStub(self.channel)
        self.contacts = ContactsStub(self.channel)
        self.definitions = EventDefinitionsStub(self.channel)
        self.ingest = EventIngestStub(self.channel)
        self.matches = MatchStreamStub(self.channel)
        self.projects = ProjectsStub(self.channel)
        self.quarantine = QuarantineStub(self.channel)
        self._project: str | None = None

    @property
    def json(self) -> bool:
        """Whether to print JSON."""
        return self.connection.json

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q, *, patient: bool = False) -> A:
        """Call a method for the project; a patient call has no deadline."""
        return await self.bare_call(method, request, await self.metadata(), patient=patient)

    async def admin_call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        """Call a method that belongs to no project."""
        return await self.bare_call(method, request, self.admin_metadata())

    async def bare_call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        metadata: Metadata = (),
        *,
        patient: bool = False,
    ) -> A:
        """Call a method with only this metadata."""
        timeout = None if patient else self.connection.timeout
        try:
            response = await method(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            _raise_if_interrupted()
            raise failure_of(error, self.connection) from error
        _raise_if_interrupted()
        return response

    async def metadata(self) -> Metadata:
        """Return the metadata of a call for the project."""
        project = await self.project()
        return (*self.admin_metadata(), *((("signalbox-project", project),) if project else ()))

    async def project(self) -> str:
        """Return the name or id of the project: that of --project, or the only one; empty for a key of a project."""
        if self._project is None:
            named = self.connection.project
            self._project = await (self._header_value(named) if named else self._only_project())
        return self._project

    def admin_metadata(self) -> Metadata:
        """Return the metadata of a call that belongs to no project."""
        return (("authorization", f"Bearer {self.connection.key or local_admin_key(self.connection)}"),)

    async def _header_value(self, project: str) -> str:
        """Return the name, or the id for a name that a header cannot carry."""
        if project.isascii() and project.isprintable():
            return project
        request = projects_pb2.GetProjectRequest(project=project)
        return (await self.admin_call(self.projects.GetProject, request)).project.id

    async def _only_project(self) -> str:
        # Only the server knows whether this is the admin key.
        caller = await self.admin_call(self.projects.WhoAmI, projects_pb2.WhoAmIRequest())
        if not caller.admin:
            return ""
        response = await self.admin_call(self.projects.ListProjects, projects_pb2.ListProjectsRequest())
        if not response.projects:
            raise Failure("there is no project yet (create one with: signalbox project create NAME)")
        if len(response.projects) > 1:
            raise Failure(f"there are several projects; name one with --project: {_named(response.projects)}")
        return response.projects[0].id


def client_command(function: Callable[Concatenate[Session, P], Awaitable[None]]) -> Callable[P, None]:
    """Turn a coroutine function into a command with the connection options; it is called with a Session."""

    @connection_options
    @click.pass_context
    @wraps(function)
    def command(context: click.Context, /, *args: Any, **kwargs: Any) -> None:
        async def run() -> None:
            session = Session(Connection.of(context.obj))
            async with session.channel:
                await function(session, *args, **kwargs)

        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None

    return command


def _raise_if_interrupted() -> None:
    """Raise CancelledError for a Ctrl-C at the moment when a call ends, which the client of grpcio swallows."""
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError


def _named(projects: Any) -> str:
    names = [project.name for project in projects]
    rest = len(names) - MAX_PROJECTS_NAMED
    return ", ".join(names[:MAX_PROJECTS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
