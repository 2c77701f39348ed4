"""API keys expire, are rotated, and say when they were used and what they are."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from grpc.aio import AioRpcError

from server.auth.access import Access
from server.delivery.dispatcher import Dispatcher
from server.version import version
from signalbox.v1 import contacts_pb2, match_stream_pb2
from signalbox.v1 import projects_pb2 as pb
from tests.support.automations import automate
from tests.support.bridge import calling, http_client
from tests.support.consumers import WAIT, Engine, subscribe
from tests.support.refusals import read_refusal, verdict
from tests.support.service import ADMIN_KEY, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting

EXPIRED = (StatusCode.UNAUTHENTICATED, "API_KEY_EXPIRED")
INVALID = (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")


def after(seconds: float) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return moment


async def create(service: Service, project: str, **fields: Any) -> pb.CreateApiKeyResponse:
    return await service.admin.projects.CreateApiKey(pb.CreateApiKeyRequest(project=project, **fields))


async def rotate(service: Service, key: pb.ApiKey, grace: float) -> pb.RotateApiKeyResponse:
    duration = Duration()
    duration.FromMicroseconds(round(grace * 1_000_000))
    return await service.admin.projects.RotateApiKey(pb.RotateApiKeyRequest(id=key.id, grace=duration))


async def works(client: Client) -> Any:
    """Make a call with a key, and return how it was refused, None if it was not."""
    try:
        await client.contacts.ListContacts(contacts_pb2.ListContactsRequest())
    except AioRpcError as error:
        refused = read_refusal(error)
        return refused.code, refused.reason
    return None


def watch(client: Client) -> Any:
    return client.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest())


async def test_a_key_works_until_it_expires_and_then_its_streams_end(service: Service, shop: Client) -> None:
    made = await create(service, shop.project, expires_at=after(0.7), name="short")
    client = service.client(made.secret)
    stream = watch(client)
    await stream.read()
    expires = made.api_key.expires_at.ToDatetime(UTC)
    assert await verdict(stream.read()) == EXPIRED
    late = datetime.now(UTC) - expires
    assert timedelta(0) <= late < timedelta(seconds=1)
    assert [await works(client), await works(client)] == [EXPIRED, EXPIRED]
    assert made.api_key.name == "short"


async def test_a_call_that_waits_for_matches_ends_when_its_key_does(service: Service, shop: Client) -> None:
    await subscribe(shop)
    pull = match_stream_pb2.PullMatchesRequest(subscription="engine", consumer_id="c", wait=Duration(seconds=30))
    made = await create(service, shop.project, expires_at=after(0.7))
    expires = made.api_key.expires_at.ToDatetime(UTC)
    assert await verdict(service.client(made.secret).matches.PullMatches(pull)) == EXPIRED
    assert timedelta(0) <= datetime.now(UTC) - expires < timedelta(seconds=1)


@pytest.mark.parametrize("name", ["WatchMatches", "ConsumeMatches", "PullMatches"])
async def test_no_match_is_delivered_with_a_key_that_is_answered_as_revoked(
    service: Service, shop: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    requested = asyncio.Event()
    request_matches = Dispatcher.request

    def requesting(*values: Any) -> None:
        request_matches(*values)
        requested.set()

    async def never(_: Access) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Dispatcher, "request", requesting)
    await subscribe(shop)
    await automate(shop)
    made = await create(service, shop.project)
    client = service.client(made.secret)
    next_match: asyncio.Future[Any]
    if name == "PullMatches":
        request = match_stream_pb2.PullMatchesRequest(subscription="engine", consumer_id="c", wait=Duration(seconds=30))
        next_match = asyncio.ensure_future(client.matches.PullMatches(request))
        await asyncio.wait_for(requested.wait(), WAIT)
    elif name == "ConsumeMatches":
        engine = await Engine.open(client)
        next_match = asyncio.ensure_future(engine.read())
    else:
        stream = watch(client)
        await stream.read()
        next_match = asyncio.ensure_future(stream.read())
    monkeypatch.setattr(Access, "_recheck_suspects", never)
    await service.admin.projects.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.api_key.id))
    await shop.send()
    assert await verdict(next_match) == INVALID


@pytest.mark.parametrize(
    ("dialect", "path"),
    [(pb.DIALECT_NATIVE, "/signalbox.v1.Contacts/ListContacts"), (pb.DIALECT_OPENSEND, "/events")],
)
async def test_a_request_whose_body_arrives_after_the_end_of_its_key_is_refused(
    service: Service, shop: Client, dialect: pb.Dialect, path: str
) -> None:
    made = await create(service, shop.project, dialect=dialect, expires_at=after(0.7))
    ended = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await ended.wait()
        yield b"}"

    headers = {"authorization": f"Bearer {made.secret}", "content-type": "application/json"}
    async with http_client(service) as http:
        sending = asyncio.ensure_future(http.post(path, content=body(), headers=headers))
        await asyncio.sleep(1)
        ended.set()
        assert (await sending).status_code == 401


async def test_an_expired_key_is_refused_in_every_dialect(service: Service, shop: Client) -> None:
    made = await create(service, shop.project, dialect=pb.DIALECT_OPENSEND, expires_at=after(0.7))
    async with http_client(service) as http:
        status = 200
        while status == 200:
            response = await http.get("/events", headers={"authorization": f"Bearer {made.secret}"})
            status = response.status_code
        assert status == 401


async def test_an_expiry_in_the_past_is_refused(service: Service, shop: Client) -> None:
    call = service.admin.projects.CreateApiKey(pb.CreateApiKeyRequest(project=shop.project, expires_at=after(-1)))
    assert await verdict(call) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_rotated_key_has_two_secrets_for_the_grace_period(service: Service, shop: Client) -> None:
    made = await create(service, shop.project)
    old = service.client(made.secret)
    stream = watch(old)
    await stream.read()
    rotated = await rotate(service, made.api_key, 0.7)
    assert (rotated.api_key.id, rotated.secret == made.secret) == (made.api_key.id, False)
    assert rotated.api_key.hint != made.api_key.hint
    assert await works(service.client(rotated.secret)) is None
    assert await works(old) is None
    assert await verdict(stream.read()) == EXPIRED
    assert await works(old) == EXPIRED
    assert await works(service.client(rotated.secret)) is None


async def test_without_a_grace_period_the_old_secret_ends_at_once(service: Service, shop: Client) -> None:
    made = await create(service, shop.project)
    client = service.client(made.secret)
    assert await works(client) is None
    rotated = await rotate(service, made.api_key, 0)
    assert await works(client) == EXPIRED
    again = await rotate(service, made.api_key, 60)
    assert await works(client) == INVALID
    assert [await works(service.client(each.secret)) for each in (rotated, again)] == [None, None]


async def test_a_rotation_is_refused_for_a_revoked_key_and_a_long_grace_period(service: Service, shop: Client) -> None:
    made = await create(service, shop.project)
    duration = Duration(seconds=30 * 86_400 + 1)
    call = service.admin.projects.RotateApiKey(pb.RotateApiKeyRequest(id=made.api_key.id, grace=duration))
    assert await verdict(call) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    await service.admin.projects.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.api_key.id))
    call = service.admin.projects.RotateApiKey(pb.RotateApiKeyRequest(id=made.api_key.id))
    assert await verdict(call) == (StatusCode.FAILED_PRECONDITION, "API_KEY_NOT_ACTIVE")


async def test_the_secret_of_a_rotated_key_cannot_be_imported(service: Service, shop: Client) -> None:
    made = await create(service, shop.project)
    await rotate(service, made.api_key, 60)
    call = service.admin.projects.CreateApiKey(pb.CreateApiKeyRequest(project=shop.project, secret=made.secret))
    assert await verdict(call) == (StatusCode.ALREADY_EXISTS, "SECRET_IN_USE")


async def test_whoami_says_what_a_key_is(service: Service, shop: Client) -> None:
    made = await create(service, shop.project, scopes=["events:write"], name="checkout", dialect=pb.DIALECT_RESEND)
    found = await service.client(made.secret).projects.WhoAmI(pb.WhoAmIRequest())
    assert (found.api_key.name, found.api_key.dialect, list(found.api_key.scopes)) == (
        "checkout",
        pb.DIALECT_RESEND,
        ["events:write"],
    )
    assert (found.project.id, found.admin, found.server_version) == (made.api_key.project_id, False, version())
    admin = await service.admin.projects.WhoAmI(pb.WhoAmIRequest())
    assert (admin.admin, admin.HasField("project"), admin.HasField("api_key")) == (True, False, False)
    named = await service.client(ADMIN_KEY, shop.project).projects.WhoAmI(pb.WhoAmIRequest())
    assert named.project == found.project


async def test_the_last_use_of_a_key_is_stored_without_a_write_by_calls(database_url: str) -> None:
    async with serving(database_url) as service:
        shop = await service.by_requests().shop()
        async with calling(service, shop, "resend") as client:
            await client.call("GET /events")
        await create(service, shop.project, name="unused")
        project = shop.project
    async with serving(database_url) as service:
        keys = (await service.admin.projects.ListApiKeys(pb.ListApiKeysRequest(project=project))).api_keys
    used = {key.name: key.last_used_at.seconds > 0 for key in keys if key.name == "unused"}
    assert used == {"unused": False}
    assert [key.last_used_at.seconds > 0 for key in keys].count(True) == 2
