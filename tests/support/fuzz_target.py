"""A real server that is fuzzed: its answers, its log, its response times and its rows."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from signalbox.v1 import projects_pb2 as pb
from tests.support.automations import automate
from tests.support.consumers import EARLIEST, pull, subscribe
from tests.support.contract import METHODS
from tests.support.fuzzing import Things
from tests.support.messages import ADA, BOB, ORDER, event, schema
from tests.support.process import server_process
from tests.support.raw_http import connection
from tests.support.stores import TABLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from pathlib import Path

    from google.protobuf.descriptor import MethodDescriptor

    from tests.support.process import Process
    from tests.support.raw_http import RawConnection
    from tests.support.service import Client
    from tests.support.stores import Store

LOG_LINE = 2_048
BROKEN_CODES = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
UNARY_SECONDS = 30.0
STREAM_SECONDS = 0.1
"""A stream that does not end is cancelled after this time."""


@dataclass(frozen=True)
class Rpc:
    """One call of a method of the contract, as bytes."""

    method: str
    requests: tuple[bytes, ...]

    def line(self) -> str:
        """Write the call as a line of the seeds."""
        return json.dumps({"method": self.method, "requests": [each.hex() for each in self.requests]})

    @staticmethod
    def read(line: str) -> Rpc:
        """Read a line of the seeds."""
        seed = json.loads(line)
        return Rpc(seed["method"], tuple(bytes.fromhex(each) for each in seed["requests"]))


@dataclass(frozen=True)
class HttpRequest:
    """A request of a dialect as bytes; the end of one that was damaged may be anywhere."""

    dialect: str
    content: bytes
    key: str
    damaged: bool = False

    def line(self) -> str:
        """Write the request as a line of the seeds."""
        content = self.content.decode("latin-1").replace(self.key, "{key}")
        return json.dumps({"dialect": self.dialect, "content": content, "damaged": self.damaged})

    @staticmethod
    def read(line: str, keys: Mapping[str, str]) -> HttpRequest:
        """Read a line of the seeds."""
        seed = json.loads(line)
        key = keys[seed["dialect"]]
        content = seed["content"].replace("{key}", key).encode("latin-1")
        return HttpRequest(seed["dialect"], content, key, seed["damaged"])


class Target:
    """The server, a project with one resource of each kind, and the known values of both."""

    def __init__(self, process: Process, client: Client, store: Store) -> None:
        self.client = client
        self.things = Things(client.project)
        self._process = process
        self._store = store
        self._http_address = process.service.http_address

    @property
    def http_address(self) -> str:
        """Where the dialects are served."""
        return self._http_address

    async def fill(self) -> None:
        """Create one resource of each kind, and note its names."""
        await self.client.define()
        await self.client.define("anything", schema(list="array", object="object", at="date", n="number"))
        ada = await self.client.upsert(ADA, {"tier": "gold"})
        self.things.expect(contactId=ada.id, contact_id=ada.id)
        await self.client.upsert(BOB)
        for condition in ("", "properties.order_total > 2.0", 'contact.properties.tier == "gold"'):
            await automate(self.client, condition=condition)
        await automate(self.client, active=False, event_name="undefined")
        await subscribe(self.client, "engine", EARLIEST)
        await subscribe(self.client, "other", EARLIEST)
        await self.client.send_all([event({"order_total": number}) for number in range(5)])
        for each in await pull(self.client, 3, name="other"):
            self.things.learn("delivery_id", each.delivery_id)
            self.things.learn("delivery_ids", each.delivery_id)
        for rpc in self.lists():
            await self.call(rpc)
        self.things.expect(
            key="order_total",
            email=ADA,
            event=ORDER,
            event_name=ORDER,
            eventName=ORDER,
            event_definition=ORDER,
            subscription="engine",
        )

    def lists(self) -> list[Rpc]:
        """Return a first page of one item of every list."""
        fields = {
            "event_definition": ORDER,
            "subscription": "engine",
            "project": self.client.project,
            "event_id": next(iter(self.things.known("event_id")), ""),
        }
        found = []
        for name, method in METHODS.items():
            known = method.input_type.fields_by_name
            if "page_token" in known and not method.server_streaming:
                request = GetMessageClass(method.input_type)()
                for field in {"page_size": 1, **fields}.items():
                    if field[0] in known:
                        setattr(request, *field)
                found.append(Rpc(name, (request.SerializeToString(),)))
        return found

    async def call(self, rpc: Rpc) -> grpc.StatusCode:
        """Make a call with the admin key, note values of the answers, and return the code. Fail on internal errors."""
        method = METHODS[rpc.method]
        try:
            answers = await asyncio.wait_for(self._answers(method, rpc.requests), UNARY_SECONDS)
        except grpc.aio.AioRpcError as error:
            # grpcio reports INTERNAL for a stream that is refused while it sends; a real internal error is in the log.
            if error.code() in BROKEN_CODES and not method.client_streaming:
                raise AssertionError(f"{error.code()} {error.details()}: {rpc.line()[:4_000]}") from None
            return error.code()
        if method.output_type.name != "ListApiKeysResponse":
            for answer in answers:
                self.things.learn_message(GetMessageClass(method.output_type).FromString(answer))
        return grpc.StatusCode.OK

    async def _answers(self, method: MethodDescriptor, requests: Iterable[bytes]) -> list[bytes]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        (first, *_), metadata = requests, self.client.metadata
        channel = self.client.channel
        if not (method.server_streaming or method.client_streaming):
            unary: Any = channel.unary_unary(path)
            return [await unary(first, metadata=metadata, timeout=UNARY_SECONDS)]
        stream: Any = channel.stream_stream(path) if method.client_streaming else channel.unary_stream(path)
        call = stream(iter(requests) if method.client_streaming else first, metadata=metadata)
        answers: list[bytes] = []
        try:
            async with asyncio.timeout(STREAM_SECONDS):
                async for answer in call:
                    answers.append(answer)
                    if len(answers) == 5:
                        break
        except TimeoutError:
            pass
        finally:
            call.cancel()
        return answers

    async def http(self, requests: Iterable[HttpRequest]) -> None:
        """Send requests one after the other, over one connection while it lasts, and learn from the answers."""
        waiting = iter(requests)
        is_open = True
        while is_open:
            is_open = False
            async with connection(self._http_address) as raw:
                for request in waiting:
                    is_open = await self._http(raw, request)
                    if not is_open:
                        break
                else:
                    return
            is_open = True

    async def _http(self, raw: RawConnection, request: HttpRequest) -> bool:
        """Send one request; return whether the connection is of use for another one."""
        await raw.send(request.content)
        head = request.content.startswith(b"HEAD ")
        if request.damaged:
            raw.end()
            answers = [] if head else await raw.answers()
        else:
            answers = [await raw.answer(head=head)]
        for answer in answers:
            assert answer.status < 500, f"{answer.status} {answer.body[:300]!r}: {request.line()[:4_000]}"
            if answer.body and not head:
                self.things.learn_json(json.loads(answer.body))
        return not request.damaged and answers[0].headers.get("connection") != "close"

    @contextmanager
    def watched(self, health_seconds: float) -> Iterator[None]:
        """Check the server's health continuously; at the end check the response times and the log."""
        logged = len(self._process.log().splitlines())
        health = Health(self._http_address)
        health.start()
        try:
            yield
        finally:
            health.stop()
        self._check_log(logged)
        assert (health.asked > 0, health.fault) == (True, None)
        assert health.slowest < health_seconds, f"the health check took {health.slowest:.3f} s"

    def _check_log(self, start: int) -> None:
        lines = self._process.log().splitlines()[start:]
        errors = [line[:3_000] for line in lines if '"error"' in line or "Traceback" in line]
        assert errors == [], "\n".join(errors[:5])
        long = [line[:500] for line in lines if len(line) > LOG_LINE]
        assert long == [], f"{len(long)} lines are too long, such as {long[0]}"

    async def stored(self) -> dict[str, list[Any]]:
        """Return every row of the database."""
        return {table: sorted(await self._store.rows(table), key=repr) for table in TABLES}


class Health(threading.Thread):
    """Asks a server every 20 ms whether it serves, over a connection of its own; remembers the slowest answer."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.slowest = 0.0
        self.asked = 0
        self._address = address
        self.fault: Exception | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Check until stopped."""
        try:
            self._ask()
        except (OSError, http.client.HTTPException) as fault:
            self.fault = fault

    def _ask(self) -> None:
        host, _, port = self._address.rpartition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=60)
        while not self._over.wait(0.02):
            began = time.monotonic()
            client.request("GET", "/healthz")
            with client.getresponse() as answer:
                answer.read()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.asked += 1
        client.close()

    def stop(self) -> None:
        """Stop checking."""
        self._over.set()
        self.join()


@asynccontextmanager
async def fuzzed(store: Store, folder: Path) -> AsyncIterator[Target]:
    """Run a server to be fuzzed."""
    async with server_process(store.url, folder) as process:
        admin = process.service.admin
        made = await admin.projects.CreateProject(pb.CreateProjectRequest(project=pb.Project(name="fuzzed")))
        client = process.service.client(admin.secret, made.project.id)
        target = Target(process, client, store)
        await target.fill()
        yield target
