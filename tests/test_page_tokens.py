"""Page tokens cannot be made by callers, and every list takes only its own."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
import pytest

from server.bridge.dialects import DIALECTS
from server.bridge.openapi import document
from signalbox.v1 import automations_pb2, match_stream_pb2
from tests.support.automations import automate
from tests.support.bridge import calling
from tests.support.consumers import EARLIEST, PARK, acknowledge, ids, pull, subscribe
from tests.support.contract import METHODS, call_method
from tests.support.messages import ANYTHING, ORDER, event
from tests.support.quarantine import KEEP
from tests.support.refusals import refusal
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.service import Client, Service

PAGED = sorted(name for name, method in METHODS.items() if "page_token" in method.input_type.fields_by_name)

FORGED_CURSORS: tuple[Any, ...] = (
    [2**31],
    [2**40, "x"],
    [2**63],
    [-(2**63)],
    ["x"],
    ["x", 2**40],
    [2**40, 2**40],
    [],
    [None],
    [1.5],
    {},
)


class Lists:
    """A project in which every list has more than one page of one item, and a request for each list."""

    def __init__(self, client: Client, admin: Client, fields: Mapping[str, Mapping[str, Any]]) -> None:
        self.client = client
        self._admin = admin
        self._fields = fields

    @classmethod
    async def fill(cls, service: Service) -> Lists:
        """Make the project."""
        client = await service.shop(refused_events=KEEP)
        for _ in range(2):
            await refusal(client.send(event(name="unheard_of")))
        await client.define("another")
        await client.redefine(ANYTHING)
        await client.upsert("b@example.com")
        await service.key(client.project)
        await service.project()
        for name in ("one", "two"):
            await automate(client, name=name)
            await subscribe(client, name, start=EARLIEST)
        first = await client.send()
        await client.send()
        deliveries = await pull(client, name="one")
        nack = match_stream_pb2.NackDeliveries(delivery_ids=ids(deliveries), action=PARK)
        await acknowledge(client, "one", nacks=[nack])
        return cls(
            client,
            service.admin,
            {
                "EventDefinitions.ListRevisions": {"event_definition": ORDER},
                "EventDefinitions.ListDependents": {"event_definition": ORDER},
                "Automations.ExplainEvent": {"event_id": first.event.id},
                "MatchStream.ListParkedMatches": {"subscription": "one"},
                "Projects.ListApiKeys": {"project": client.project},
            },
        )

    async def page(self, name: str, token: str = "") -> str:
        """Read a page of one item, and return the token of the next one."""
        fields = {"page_token": token, **self._fields.get(name, {})}
        if "page_size" in METHODS[name].input_type.fields_by_name:
            fields["page_size"] = 1
        client = self._admin if name.startswith("Projects.") else self.client
        response: Any = await call_method(client.channel, METHODS[name], client.metadata, **fields)
        return str(response.next_page_token)

    async def tokens(self) -> dict[str, str]:
        """Return the token of the second page of each list; GetDescriptorSet has none."""
        found = {name: await self.page(name) for name in PAGED}
        assert [name for name, token in found.items() if not token] == ["EventDefinitions.GetDescriptorSet"]
        return {name: token for name, token in found.items() if token}


def forged(token: str) -> Iterator[str]:
    """Yield tokens with cursors of a stranger, which a list that checks no signature might take."""
    content = urlsafe_b64decode(token)
    for cursor in FORGED_CURSORS:
        yield encoded(content[:16] + msgspec.json.encode(cursor))
        yield encoded(msgspec.json.encode(["0" * 12, *cursor]))


def spoiled(token: str) -> Iterator[str]:
    """Yield tokens that resemble a token of the server."""
    content = urlsafe_b64decode(token)
    yield from (encoded(content[:length]) for length in (1, 8, 15, 16, 17, len(content) - 1))
    for place in (0, 15, 16, len(content) - 1):
        yield encoded(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    yield from ("x", "=", "é", token + "A", token[:-1], "A" * 100_000)


def encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).decode()


async def assert_refused(lists: Lists, name: str, token: str) -> None:
    refused = await refusal(lists.page(name, token))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"), (name, token)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_every_list_takes_its_own_tokens_alone(service: Service) -> None:
    """On one database: the others are refused before any is asked."""
    lists, others = await Lists.fill(service), await Lists.fill(service)
    tokens, foreign = await lists.tokens(), await others.tokens()
    for name in PAGED:
        if name in tokens:
            await lists.page(name, tokens[name])
            if name != "Projects.ListProjects":
                await assert_refused(lists, name, foreign[name])
        for other, token in tokens.items():
            if other != name:
                await assert_refused(lists, name, token)
        for token in forged(tokens.get(name) or tokens["Contacts.ListContacts"]):
            await assert_refused(lists, name, token)
    for token in spoiled(tokens["Contacts.ListContacts"]):
        await assert_refused(lists, "Contacts.ListContacts", token)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_resource_created_again_does_not_take_the_tokens_of_the_deleted_one(service: Service) -> None:
    lists = await Lists.fill(service)
    names = ("EventDefinitions.ListRevisions", "EventDefinitions.ListDependents", "MatchStream.ListParkedMatches")
    tokens = {name: await lists.page(name) for name in names}
    client = lists.client
    await client.matches.DeleteSubscription(match_stream_pb2.DeleteSubscriptionRequest(subscription="one"))
    await subscribe(client, "one", start=EARLIEST)
    listed = await client.automations.ListAutomations(automations_pb2.ListAutomationsRequest())
    for each in listed.automations:
        await client.automations.PauseAutomation(automations_pb2.PauseAutomationRequest(id=each.id))
    await client.undefine()
    await client.define()
    for name, token in tokens.items():
        await assert_refused(lists, name, token)


async def test_tokens_outlive_a_restart(database_url: str) -> None:
    """On PostgreSQL, two servers show below that tokens depend on the database alone."""
    async with serving(database_url) as service:
        lists = await Lists.fill(service)
        tokens = await lists.tokens()
    async with serving(database_url) as service:
        again = Lists(service.client(lists.client.secret), service.admin, lists._fields)
        for name, token in tokens.items():
            await again.page(name, token)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_servers_of_one_database_take_each_others_tokens(database_url: str) -> None:
    async with serving(database_url) as first, serving(database_url) as second:
        lists = await Lists.fill(first)
        other = Lists(second.client(lists.client.secret), second.admin, lists._fields)
        for name, token in (await lists.tokens()).items():
            await other.page(name, token)


QUERIES = [
    (dialect, path.removeprefix(f"/{dialect}"), parameter["name"])
    for dialect in (str(each.name) for each in DIALECTS)
    for path, operations in document(DIALECTS)["paths"].items()
    if path.startswith(f"/{dialect}/") and "/api/" not in path.removeprefix("/emailsendx")
    for parameter in operations.get("get", {}).get("parameters", ())
    if parameter["in"] == "query"
]
PLACES = ("x", "0", "-1", "1.5", str(2**31), str(2**40), str(2**63), "9" * 40, "%00", "%ff", "é", "A" * 2_000)


@pytest.mark.parametrize("dialect", sorted({dialect for dialect, _, _ in QUERIES}))
async def test_no_place_in_a_list_of_a_dialect_is_an_internal_error(service: Service, dialect: str) -> None:
    lists = await Lists.fill(service)
    async with calling(service, lists.client, dialect) as rest:
        for _, path, parameter in filter(lambda query: query[0] == dialect, QUERIES):
            for place in PLACES:
                answer = await rest.call(f"GET {path.format(id='x')}?{parameter}={place}")
                assert answer.status_code in {200, 400, 404, 422}, (path, parameter, place, answer.text)
