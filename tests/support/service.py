"""A server of the tests' own, and clients that speak to it over a real channel."""

from __future__ import annotations

import ssl
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import httpx

from server.app import running
from server.rpc.messages.enums import DIALECT
from server.settings import Settings
from signalbox.v1 import contacts_pb2, event_definitions_pb2, event_ingest_pb2, projects_pb2
from signalbox.v1.audit_pb2_grpc import AuditLogStub
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.contacts_pb2_grpc import ContactsStub
from signalbox.v1.event_definitions_pb2_grpc import EventDefinitionsStub
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub
from signalbox.v1.projects_pb2_grpc import ProjectsStub
from signalbox.v1.refusals_pb2_grpc import QuarantineStub
from tests.support.messages import ADA, ORDER, ORDER_SCHEMA, event, struct
from tests.support.projects import make_key, make_project, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from server.storage.database import Database
    from signalbox.v1.audit_pb2_grpc import AuditLogAsyncStub
    from signalbox.v1.automations_pb2_grpc import AutomationsAsyncStub
    from signalbox.v1.contacts_pb2_grpc import ContactsAsyncStub
    from signalbox.v1.event_definitions_pb2_grpc import EventDefinitionsAsyncStub
    from signalbox.v1.event_ingest_pb2_grpc import EventIngestAsyncStub
    from signalbox.v1.event_pb2 import Event
    from signalbox.v1.match_stream_pb2_grpc import MatchStreamAsyncStub
    from signalbox.v1.projects_pb2_grpc import ProjectsAsyncStub
    from signalbox.v1.refusals_pb2_grpc import QuarantineAsyncStub

T = TypeVar("T")

ADMIN_KEY = "sb_admin_key_of_the_tests"
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))

_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Unused; passed because httpx otherwise loads a new one for every client, which takes longer than most tests."""

# httpcore looks for it before every request, which takes longer than the request if it is not installed.
if find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

_numbers = count(1)


def http_client(address: str = "", timeout: float = 30) -> httpx.AsyncClient:
    """Return an HTTP client without a key: of a server, or of any that requests name."""
    base_url = f"http://{address}" if address else ""
    return httpx.AsyncClient(base_url=base_url, timeout=timeout, verify=_CONTEXT, trust_env=False)


class Client:
    """Calls one server with one key; the stubs are typed and send the key by themselves. They are made when used."""

    def __init__(self, channel: grpc.aio.Channel, secret: str, project: str = "") -> None:
        self.channel = channel
        self.secret = secret
        self.project = project
        self.metadata = [("authorization", f"Bearer {secret}"), ("signalbox-project", project)]

    @cached_property
    def audit(self) -> AuditLogAsyncStub:
        return self._authorized(AuditLogStub(self.channel))

    @cached_property
    def definitions(self) -> EventDefinitionsAsyncStub:
        return self._authorized(EventDefinitionsStub(self.channel))

    @cached_property
    def ingest(self) -> EventIngestAsyncStub:
        return self._authorized(EventIngestStub(self.channel))

    @cached_property
    def contacts(self) -> ContactsAsyncStub:
        return self._authorized(ContactsStub(self.channel))

    @cached_property
    def projects(self) -> ProjectsAsyncStub:
        return self._authorized(ProjectsStub(self.channel))

    @cached_property
    def automations(self) -> AutomationsAsyncStub:
        return self._authorized(AutomationsStub(self.channel))

    @cached_property
    def matches(self) -> MatchStreamAsyncStub:
        return self._authorized(MatchStreamStub(self.channel))

    @cached_property
    def quarantine(self) -> QuarantineAsyncStub:
        return self._authorized(QuarantineStub(self.channel))

    def stubs(self) -> list[object]:
        """Return the stubs of all services."""
        return [
            self.audit,
            self.definitions,
            self.ingest,
            self.contacts,
            self.projects,
            self.automations,
            self.matches,
            self.quarantine,
        ]

    def _authorized(self, stub: T) -> T:
        for name, call in dict(vars(stub)).items():
            setattr(stub, name, partial(call, metadata=self.metadata))
        return stub

    async def define(
        self, name: str = ORDER, schema: event_definitions_pb2.Schema = ORDER_SCHEMA, description: str = ""
    ) -> event_definitions_pb2.EventDefinition:
        definition = event_definitions_pb2.EventDefinition(name=name, schema=schema, description=description)
        request = event_definitions_pb2.CreateEventDefinitionRequest(event_definition=definition)
        return (await self.definitions.CreateEventDefinition(request)).event_definition

    async def redefine(
        self, schema: event_definitions_pb2.Schema, name: str = ORDER
    ) -> event_definitions_pb2.EventDefinition:
        request = event_definitions_pb2.UpdateEventDefinitionRequest(event_definition=name, schema=schema)
        return (await self.definitions.UpdateEventDefinition(request)).event_definition

    async def undefine(self, name: str = ORDER) -> event_definitions_pb2.EventDefinition:
        request = event_definitions_pb2.DeleteEventDefinitionRequest(event_definition=name)
        return (await self.definitions.DeleteEventDefinition(request)).event_definition

    async def upsert(self, email: str = ADA, properties: Mapping[str, Any] | None = None) -> contacts_pb2.Contact:
        request = contacts_pb2.UpsertContactRequest(email=email, properties=struct(properties or {}))
        return (await self.contacts.UpsertContact(request)).contact

    async def forget(self, email: str = ADA) -> contacts_pb2.Contact:
        return (await self.contacts.DeleteContact(contacts_pb2.DeleteContactRequest(email=email))).contact

    async def send(
        self,
        sent: event_ingest_pb2.EventInput | None = None,
        view: event_ingest_pb2.ResultView.ValueType = event_ingest_pb2.RESULT_VIEW_UNSPECIFIED,
    ) -> event_ingest_pb2.EventReceipt:
        request = event_ingest_pb2.SendEventRequest(event=sent or event(), view=view)
        return (await self.ingest.SendEvent(request)).receipt

    async def send_all(
        self,
        events: Iterable[event_ingest_pb2.EventInput],
        mode: event_ingest_pb2.BatchMode.ValueType = event_ingest_pb2.BATCH_MODE_UNSPECIFIED,
        view: event_ingest_pb2.ResultView.ValueType = event_ingest_pb2.RESULT_VIEW_UNSPECIFIED,
    ) -> list[event_ingest_pb2.EventResult]:
        request = event_ingest_pb2.SendEventsRequest(events=events, mode=mode, view=view)
        return list((await self.ingest.SendEvents(request)).results)

    async def get(self, event_id: str) -> Event:
        return (await self.ingest.GetEvent(event_ingest_pb2.GetEventRequest(id=event_id))).event

    async def log(self, **filters: Any) -> list[Event]:
        """Read the whole log, oldest first."""
        events: list[Event] = []
        request = event_ingest_pb2.ListEventsRequest(page_size=1_000, after_position=0, **filters)
        while True:
            page = await self.ingest.ListEvents(request)
            events += page.events
            if not page.next_page_token:
                return events
            request.page_token = page.next_page_token

    async def positions(self) -> list[int]:
        return [each.position for each in await self.log()]


class Service:
    """A running server; `admin` may do everything in no project."""

    def __init__(
        self, address: str, channel: grpc.aio.Channel, http_address: str = "", database: Database | None = None
    ) -> None:
        """`database` is the server's, if it runs in this process."""
        self.address = address
        self.http_address = http_address
        self.channel = channel
        self._database = database
        self._http: httpx.AsyncClient | None = None
        self.admin = self.client(ADMIN_KEY)

    def client(self, secret: str, project: str = "") -> Client:
        return Client(self.channel, secret, project)

    def by_requests(self) -> Service:
        """Return the same service with projects, shops and keys made by requests, which the audit log has."""
        return Service(self.address, self.channel, self.http_address)

    @property
    def http(self) -> httpx.AsyncClient:
        """An HTTP client without a key, which keeps its connections from test to test."""
        self._http = self._http or http_client(self.http_address)
        return self._http

    async def close(self) -> None:
        """Close the connections of HTTP."""
        if self._http is not None:
            await self._http.aclose()

    async def project(self, **rules: Any) -> Client:
        """Create a project, and return a client that may do everything in it."""
        if self._database is not None and not rules:
            return await self._made(self._database, shop=False)
        wanted = projects_pb2.Project(name=f"project-{next(_numbers)}", **rules)
        made = await self.admin.projects.CreateProject(projects_pb2.CreateProjectRequest(project=wanted))
        return await self.key(made.project.id)

    async def key(self, project: str, *scopes: str) -> Client:
        """Create a key of a project, and return a client that uses it."""
        secret = await self.secret(project, projects_pb2.DIALECT_NATIVE, *scopes)
        return Client(self.channel, secret, project)

    async def secret(self, project: str, dialect: projects_pb2.Dialect.ValueType, *scopes: str) -> str:
        """Create a key of a project, and return its secret."""
        if self._database is not None:
            return await make_key(self._database, project, DIALECT.read(dialect, "dialect"), scopes)
        request = projects_pb2.CreateApiKeyRequest(project=project, dialect=dialect, scopes=scopes)
        return (await self.admin.projects.CreateApiKey(request)).secret

    async def shop(self, **rules: Any) -> Client:
        """Make a project where order_completed is defined and Ada is known."""
        if self._database is not None and not rules:
            return await self._made(self._database, shop=True)
        client = await self.project(**rules)
        await client.define()
        await client.upsert()
        return client

    async def _made(self, database: Database, *, shop: bool) -> Client:
        project, secret = await make_project(database, f"project-{next(_numbers)}", shop=shop)
        return self.client(secret, project)


def settings(database_url: str, **changes: Any) -> Settings:
    """Make the settings of a test's server."""
    defaults: dict[str, Any] = {
        "grpc": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "admin_key": ADMIN_KEY,
        "grace_seconds": 5.0,
    }
    return Settings(database=database_url, **defaults | changes)


@asynccontextmanager
async def serving(database_url: str, **changes: Any) -> AsyncIterator[Service]:
    """Run a server on a database until the context is left; the clients stay a little longer."""
    async with AsyncExitStack() as channels, running(settings(database_url, **changes)) as server:
        clients = connected(server.grpc_address, server.http_address, opened.get())
        yield await channels.enter_async_context(clients)


@asynccontextmanager
async def connected(
    address: str, http_address: str = "", database: Database | None = None, trusted: str = ""
) -> AsyncIterator[Service]:
    """Speak to the server at an address, over TLS if it has a certificate; calls may end before the channel does."""
    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    if trusted:
        credentials = grpc.ssl_channel_credentials(trusted.encode())
        channel = grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
    service = Service(address, channel, http_address, database)
    try:
        yield service
    finally:
        await service.close()
        await channel.close(grace=1)
