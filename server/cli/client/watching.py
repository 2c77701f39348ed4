"""Watching the match log over one connection after another."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc

from server.cli.client.availability import Availability
from server.cli.client.call_failures import failure_of
from server.cli.errors import Failure, ServerAway
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from server.cli.client.session import Session

RETRY_SECONDS = 0.2
SILENCE_SECONDS = 30.0
"""A server that sends nothing for this long, not even a heartbeat, is unreachable."""

MAX_MATCHES = 100


async def watch(
    session: Session, request: pb.WatchMatchesRequest, limit: int | None
) -> AsyncIterator[pb.WatchMatchesResponse]:
    """Yield responses with matches, until `limit` matches were received.

    Reconnect when the server goes away, with a notice on stderr. Raise ServerAway if it was never reached.
    """
    left = math.inf if limit is None else limit
    availability = Availability(session.connection.server)
    connected = False
    while left:
        request.max_matches = int(min(left, MAX_MATCHES))
        try:
            async with aclosing(_responses(session, request)) as responses:
                async for response in responses:
                    availability.found()
                    connected = True
                    if response.matches:
                        yield response
                    request.start.CopyFrom(pb.StartPoint(cursor=response.cursor))
                    left -= len(response.matches)
                    if left < request.max_matches:
                        break
        except Failure as failure:
            gone = isinstance(failure, ServerAway)
            if not connected or not (gone or failure.reason == "WATCHER_TOO_SLOW"):
                raise
            if gone:
                availability.lost()
            await asyncio.sleep(RETRY_SECONDS)


async def _responses(
    session: Session, request: pb.WatchMatchesRequest
) -> AsyncGenerator[pb.WatchMatchesResponse, None]:
    call = session.matches.WatchMatches(request, metadata=await session.metadata())
    try:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                response = await call.read()
            if not isinstance(response, pb.WatchMatchesResponse):
                return
            yield response
    except TimeoutError:
        raise ServerAway(f"{session.connection.server} has been silent for {SILENCE_SECONDS:g} s") from None
    except grpc.aio.AioRpcError as error:
        raise failure_of(error, session.connection) from error
    finally:
        call.cancel()
