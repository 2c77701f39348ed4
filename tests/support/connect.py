"""Calls over HTTP by the Connect protocol, written as the protocol describes it."""

from __future__ import annotations

import base64
import gzip
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import json_format, symbol_database
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2 as details

from server.rpc.contract import SERVICES
from tests.support.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import httpx
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from tests.support.service import Client, Service

ENVELOPE = Struct(">BI")
METHODS = {method.name: method for service in SERVICES for method in service.methods}
FORMS = ("json", "proto")


@dataclass
class ConnectError(Exception):
    """An error that a call was answered with."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def refusal(self) -> Refusal:
        """What the error says, read from the details as Protocol Buffers; their readable form must be equal."""
        found = {name: detail_of(self.body, name) for name in ("ErrorInfo", "BadRequest", "RetryInfo")}
        info = found["ErrorInfo"] or details.ErrorInfo()
        bad = found["BadRequest"] or details.BadRequest()
        retry = found["RetryInfo"]
        return Refusal(
            grpc.StatusCode[self.body["code"].upper()],
            self.body["message"],
            info.reason,
            info.domain,
            dict(info.metadata),
            tuple((each.field, each.reason) for each in bad.field_violations),
            None if retry is None else retry.retry_delay.ToTimedelta().total_seconds(),
        )


def detail_of(error: Mapping[str, Any], name: str) -> Any:
    """Return the detail of an error with a type of google.rpc, None without one."""
    for detail in error["details"]:
        if detail["type"] == f"google.rpc.{name}":
            value = base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4))
            message = symbol_database.Default().GetSymbol(detail["type"]).FromString(value)
            assert json_format.MessageToDict(message) == detail["debug"]
            return message
    return None


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def encoded(request: Message, form: str) -> bytes:
    """Return a message in one of FORMS."""
    return json_format.MessageToJson(request).encode() if form == "json" else request.SerializeToString()


def decoded(method: MethodDescriptor, content: bytes, form: str) -> Any:
    kind = GetMessageClass(method.output_type)
    return json_format.Parse(content, kind()) if form == "json" else kind.FromString(content)


def envelope(message: bytes, flags: int = 0) -> bytes:
    return ENVELOPE.pack(flags, len(message)) + message


class ConnectCaller:
    """Calls RPCs with one key."""

    def __init__(self, http: httpx.AsyncClient, client: Client) -> None:
        self.http = http
        self.client = client
        self.headers: dict[str, str] = {}
        self.authenticate(client)

    def authenticate(self, client: Client) -> None:
        """Call with the key of a client from now on."""
        self.headers = {"authorization": f"Bearer {client.secret}", "signalbox-project": client.project}

    async def post(
        self, method: str, body: Any, content_type: str = "application/json", **headers: str
    ) -> httpx.Response:
        """Call an RPC with a body as it is: bytes, or values as JSON. Headers are given with underscores."""
        sent = {**self.headers, "content-type": content_type}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post(path_of(METHODS[method]), content=content, headers=sent)

    async def call(self, method: str, request: Message | Mapping[str, Any], form: str = "json", **headers: str) -> Any:
        """Call an RPC with one response, and return that. Raise ConnectError."""
        body = json.dumps(request).encode() if not hasattr(request, "DESCRIPTOR") else encoded(request, form)  # type: ignore[arg-type]
        response = await self.post(method, body, f"application/{form}", **headers)
        if response.status_code != 200:
            raise error_of(response)
        assert response.headers["content-type"] == f"application/{form}"
        return decoded(METHODS[method], response.content, form)

    @asynccontextmanager
    async def streaming(
        self, method: str, request: Message, form: str = "json", **headers: str
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """Call an RPC with a stream of responses, and yield those. They raise ConnectError."""
        sent = {**self.headers, "content-type": f"application/connect+{form}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = envelope(encoded(request, form))
        called = self.http.stream("POST", path_of(METHODS[method]), content=content, headers=sent)
        async with called as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == f"application/connect+{form}"
            yield responses(METHODS[method], response, form)


async def responses(method: MethodDescriptor, response: httpx.Response, form: str) -> AsyncIterator[Any]:
    """Read the envelopes of a response. Raise ConnectError for the error of its end."""
    async for flags, message in envelopes(response):
        if not flags & 2:
            yield decoded(method, message, form)
            continue
        trailer = json.loads(message)
        if "error" in trailer:
            raise ConnectError(200, trailer["error"])
        return
    raise AssertionError("the stream ended without its last envelope")


async def envelopes(response: httpx.Response) -> AsyncIterator[tuple[int, bytes]]:
    """Read the envelopes of a response, decompressed, until the last one."""
    buffered = b""
    async for part in response.aiter_raw():
        buffered += part
        while len(buffered) >= ENVELOPE.size:
            flags, length = ENVELOPE.unpack_from(buffered)
            if len(buffered) < ENVELOPE.size + length:
                break
            message, buffered = buffered[ENVELOPE.size :][:length], buffered[ENVELOPE.size + length :]
            if flags & 1:
                assert response.headers["connect-content-encoding"] == "gzip"
                message = gzip.decompress(message)
            yield flags, message
            if flags & 2:
                assert buffered == b""
                return


def error_of(response: httpx.Response) -> ConnectError:
    assert response.headers["content-type"] == "application/json"
    return ConnectError(response.status_code, response.json(), response.headers)


@asynccontextmanager
async def connecting(service: Service, client: Client) -> AsyncIterator[ConnectCaller]:
    """Yield a caller with the key of a client."""
    yield ConnectCaller(service.http, client)
