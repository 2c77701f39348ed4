"""Random requests to every API: no internal error, nothing blocks the server, refused requests store nothing.

The quick form draws the same requests each time. SIGNALBOX_FUZZ_ROUNDS=1000 draws that many times as many, and
SIGNALBOX_FUZZ_HEALTH_SECONDS=0.2 holds the health check to what a quiet machine does. An input that made a fault is
kept in `fuzz_seeds`, and sent first ever after.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio

from server.bridge.dialects import DIALECTS
from signalbox.v1 import automations_pb2
from signalbox.v1 import projects_pb2 as pb
from tests.support.contract import METHODS
from tests.support.fuzz_target import HttpRequest, Rpc, Target, fuzzed
from tests.support.fuzzing import JsonRequests, condition, message, mutated
from tests.support.messages import ORDER, event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from tests.support.stores import Backend

ROUNDS = int(os.environ.get("SIGNALBOX_FUZZ_ROUNDS", "1"))
HEALTH_SECONDS = float(os.environ.get("SIGNALBOX_FUZZ_HEALTH_SECONDS", "10"))
"""The longest time of a health check: 0.2 s on a quiet machine, longer while other tests run."""
SEEDS = Path(__file__).parent / "fuzz_seeds"
WORKERS = 4

pytestmark = pytest.mark.timeout(120 + 60 * ROUNDS)


@pytest_asyncio.fixture(scope="module")
async def server(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    async with backend.fresh(folder) as store, fuzzed(store, folder) as running:
        yield running


@pytest.fixture
def target(server: Target) -> Iterator[Target]:
    """The server; after each test its log is read, and how long the health check took."""
    with server.watched(HEALTH_SECONDS):
        yield server


def seeds(name: str) -> list[str]:
    """Read the inputs that once made a fault."""
    return (SEEDS / name).read_text().splitlines()


def randoms() -> Iterator[Random]:
    """Yield the random source of each round."""
    return (Random(number) for number in range(ROUNDS))  # noqa: S311 - the same requests again are the point


async def spread(send: Callable[[Any], Awaitable[None]], inputs: Iterable[Any]) -> None:
    """Send inputs from several workers at once."""
    waiting = iter(inputs)

    async def work() -> None:
        for each in waiting:
            await send(each)

    await asyncio.gather(*(work() for _ in range(WORKERS)))


# The contract


def drawn_rpcs(random: Random, target: Target, count: int) -> Iterator[Rpc]:
    for _ in range(count):
        name = random.choice(list(METHODS))
        method = METHODS[name]
        requests = [
            message(random, method.input_type, target.things).SerializeToString()
            for _ in range(random.choice((1, 2, 3)) if method.client_streaming else 1)
        ]
        if random.random() < 0.2:
            requests[-1] = mutated(random, requests[-1])
        yield Rpc(name, tuple(requests))


async def test_no_request_of_the_contract_causes_an_internal_error(target: Target) -> None:
    refused: list[Rpc] = []

    async def send(rpc: Rpc) -> None:
        if await target.call(rpc) is not grpc.StatusCode.OK and not METHODS[rpc.method].client_streaming:
            refused.append(rpc)

    await spread(send, map(Rpc.read, seeds("rpcs.jsonl")))
    for random in randoms():
        await spread(send, drawn_rpcs(random, target, 400))
    await check_nothing_is_left(target, refused[-200:])


async def check_nothing_is_left(target: Target, refused: list[Rpc]) -> None:
    """Repeat refused calls one by one: those refused again have changed no row."""
    checked = 0
    for at in range(0, len(refused), 20):
        before = await target.stored()
        codes = [await target.call(rpc) for rpc in refused[at : at + 20]]
        if grpc.StatusCode.OK not in codes:
            assert await target.stored() == before
            checked += 1
    assert checked > 0


# Tokens


async def test_no_token_causes_an_internal_error(target: Target) -> None:
    lists = target.lists()

    async def send(rpc: Rpc) -> None:
        await target.call(rpc)

    def drawn(random: Random) -> Iterator[Rpc]:
        for _ in range(200):
            base = random.choice(lists)
            request = message(random, METHODS[base.method].input_type, target.things)
            if random.random() < 0.9:
                request.Clear()
            request.MergeFromString(base.requests[0])
            request.page_token = target.things.token(random)  # type: ignore[attr-defined]  # every list has it
            yield Rpc(base.method, (request.SerializeToString(),))

    for random in randoms():
        await spread(send, drawn(random))


# Conditions


# Conditions are parsed and evaluated in memory.
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_no_condition_causes_an_internal_error(target: Target) -> None:
    async def send(text: str) -> None:
        tested = automations_pb2.TestConditionRequest(
            condition=text, event=event({"order_total": 2, "currency": "EUR"})
        )
        await target.call(Rpc("Automations.TestCondition", (tested.SerializeToString(),)))
        wanted = automations_pb2.Automation(name="a", event_name=ORDER, condition=text)
        saved = automations_pb2.CreateAutomationRequest(automation=wanted, validate_only=True)
        await target.call(Rpc("Automations.CreateAutomation", (saved.SerializeToString(),)))

    await spread(send, seeds("conditions.txt"))
    for random in randoms():
        await spread(send, (condition(random) for _ in range(150)))


# The dialects


@pytest_asyncio.fixture
async def keys(target: Target) -> dict[str, str]:
    made = {}
    for served in DIALECTS:
        dialect = pb.Dialect.Value(f"DIALECT_{served.name.name}")
        request = pb.CreateApiKeyRequest(project=target.client.project, dialect=dialect)
        made[served.name.value] = (await target.client.projects.CreateApiKey(request)).secret
    return made


async def test_no_request_of_a_dialect_causes_an_internal_error(target: Target, keys: dict[str, str]) -> None:
    drawers = [
        (key, JsonRequests(served, key, target.things)) for served, key in zip(DIALECTS, keys.values(), strict=True)
    ]

    def drawn(random: Random) -> Iterator[HttpRequest]:
        for _ in range(400):
            key, drawer = random.choice(drawers)
            request = HttpRequest(drawer.dialect, drawer.draw(random), key)
            damaged = random.random() < 0.1
            yield replace(request, content=mutated(random, request.content), damaged=True) if damaged else request

    await target.http(HttpRequest.read(line, keys) for line in seeds("requests.jsonl"))
    for random in randoms():
        waiting = drawn(random)
        await asyncio.gather(*(target.http(waiting) for _ in range(WORKERS)))
