"""The service MatchStream."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from server.api.messages.watches import read_watch, write_answer
from server.api.servicers.subscriptions import SubscriptionMethods

if TYPE_CHECKING:
    from server.api.interceptor import Send
    from server.api.servicers.consume import Shutdown
    from server.auth.access import Caller
    from server.delivery.match_reader import Matches
    from server.delivery.subscriptions import Subscriptions
    from signalbox.v1 import match_stream_pb2 as pb

SLOW_HEARTBEATS: Final = 3
"""A watcher that does not take an answer within so many heartbeat intervals is too slow."""


class MatchStreamServicer(SubscriptionMethods):
    """Hands matches to the engines that act on them."""

    def __init__(self, *, matches: Matches, subscriptions: Subscriptions, shutdown: Shutdown) -> None:
        super().__init__(subscriptions=subscriptions, shutdown=shutdown)
        self._matches = matches

    async def WatchMatches(self, request: pb.WatchMatchesRequest, caller: Caller, send: Send) -> None:
        wanted = read_watch(request)
        async with aclosing(self._matches.watch(caller.project_pk, wanted)) as answers:
            async for answer in answers:
                await send(write_answer(answer, caller.project_id), SLOW_HEARTBEATS * wanted.heartbeat_seconds)
