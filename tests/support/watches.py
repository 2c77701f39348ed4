"""Watches of the match log, as tests read them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration

from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from grpc.aio import UnaryStreamCall

    from signalbox.v1.match_pb2 import Match
    from tests.support.service import Client

    Watch = UnaryStreamCall[pb.WatchMatchesRequest, pb.WatchMatchesResponse]

EARLIEST, LATEST = pb.StartPoint(log_end=pb.LOG_END_EARLIEST), pb.StartPoint(log_end=pb.LOG_END_LATEST)
PAID = "paid"


def begin(client: Client, start: pb.StartPoint | None = None, *, seconds: float | None = None, **stated: Any) -> Watch:
    request = pb.WatchMatchesRequest(start=start, **stated)
    if seconds is not None:
        request.heartbeat_interval.CopyFrom(Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1_000_000_000)))
    return client.matches.WatchMatches(request)


@asynccontextmanager
async def watching(client: Client, start: pb.StartPoint | None = None, **stated: Any) -> AsyncIterator[Watch]:
    call = begin(client, start, **stated)
    try:
        yield call
    finally:
        call.cancel()


async def answer_of(call: Watch, seconds: float = 10.0) -> pb.WatchMatchesResponse:
    async with asyncio.timeout(seconds):
        answer = await call.read()
    assert isinstance(answer, pb.WatchMatchesResponse)
    return answer


async def read_to_end(client: Client, start: pb.StartPoint, **stated: Any) -> list[pb.WatchMatchesResponse]:
    """Read the answers from a place up to the end of the log."""
    answers: list[pb.WatchMatchesResponse] = []
    async with watching(client, start, **stated) as call:
        while not answers or answers[-1].position < answers[-1].head_position:
            answers.append(await answer_of(call))
    return answers


def all_of(answers: Sequence[pb.WatchMatchesResponse]) -> list[Match]:
    return [match for answer in answers for match in answer.matches]


def positions(answers: Sequence[pb.WatchMatchesResponse]) -> list[int]:
    return [match.position for match in all_of(answers)]


def after(position: int) -> pb.StartPoint:
    return pb.StartPoint(after_position=position)
