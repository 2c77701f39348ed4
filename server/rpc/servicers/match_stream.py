"""The service MatchStream."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from automation.subscriptions.values import ParkedSelection
from server.errors import InvalidArgument
from server.paging import PageRequest
from server.process.shutdown import until
from server.rpc.messages.deliveries import (
    encode_pulled,
    read_consumer_id,
    read_consumer_requests,
    read_opening,
    read_settlements,
    write_consumer_response,
    write_result,
)
from server.rpc.messages.pushes import read_push, read_push_changes, write_attempt
from server.rpc.messages.response_size import write_page
from server.rpc.messages.subscriptions import (
    read_changes,
    read_new_subscription,
    read_selection,
    write_consumer,
    write_parked,
    write_subscription,
)
from server.rpc.messages.times import read_duration, read_timestamp
from server.rpc.messages.watches import read_max_matches, read_start, read_watch, write_update
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.auth.caller import Caller
    from server.delivery.deliveries import Deliveries
    from server.delivery.match_reader import MatchReader
    from server.process.shutdown import Shutdown
    from server.rpc.transport import Send
    from server.services.subscriptions import Subscriptions

SLOW_HEARTBEATS: Final = 3
SLOW_SECONDS: Final = 30.0
"""A watcher is too slow if it does not take a message within this many heartbeat intervals, or this many seconds."""

MAX_WAIT_SECONDS: Final = 60
_SECOND: Final = 1_000_000


class MatchStreamServicer:
    """Hands matches to the engines that act on them."""

    def __init__(
        self, matches: MatchReader, subscriptions: Subscriptions, deliveries: Deliveries, shutdown: Shutdown
    ) -> None:
        self._matches = matches
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._shutdown = shutdown

    async def WatchMatches(self, request: pb.WatchMatchesRequest, caller: Caller, send: Send) -> None:
        query = read_watch(request)
        patience = min(SLOW_HEARTBEATS * query.heartbeat_seconds, SLOW_SECONDS)
        async with aclosing(self._matches.watch(caller.project_pk, query)) as updates:
            async for update in updates:
                await send(write_update(update, caller.project_id), patience)

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, caller: Caller
    ) -> pb.CreateSubscriptionResponse:
        status = await self._subscriptions.create(
            caller.project_pk,
            read_new_subscription(request.subscription),
            read_start(request.start),
            read_push(request.subscription),
        )
        return pb.CreateSubscriptionResponse(subscription=write_subscription(status))

    async def GetSubscription(self, request: pb.GetSubscriptionRequest, caller: Caller) -> pb.GetSubscriptionResponse:
        status, consumers = await self._subscriptions.get(caller.project_pk, request.subscription)
        return pb.GetSubscriptionResponse(
            subscription=write_subscription(status),
            consumers=map(write_consumer, consumers),
            push_attempts=map(write_attempt, status.push.attempts if status.push is not None else ()),
        )

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, caller: Caller
    ) -> pb.ListSubscriptionsResponse:
        page = await self._subscriptions.list(caller.project_pk, PageRequest(request.page_size, request.page_token))
        response = pb.ListSubscriptionsResponse()
        response.next_page_token = write_page(page, write_subscription, response.subscriptions)
        return response

    async def UpdateSubscription(
        self, request: pb.UpdateSubscriptionRequest, caller: Caller
    ) -> pb.UpdateSubscriptionResponse:
        status = await self._subscriptions.update(
            caller.project_pk, request.subscription, read_changes(request), request.etag, read_push_changes(request)
        )
        return pb.UpdateSubscriptionResponse(subscription=write_subscription(status))

    async def DeleteSubscription(
        self, request: pb.DeleteSubscriptionRequest, caller: Caller
    ) -> pb.DeleteSubscriptionResponse:
        status = await self._subscriptions.delete(
            caller.project_pk, request.subscription, request.etag, force=request.force
        )
        return pb.DeleteSubscriptionResponse(subscription=write_subscription(status))

    async def SeekSubscription(
        self, request: pb.SeekSubscriptionRequest, caller: Caller
    ) -> pb.SeekSubscriptionResponse:
        if request.start.WhichOneof("place") is None:
            message = "start is missing; it must set the place at which the subscription continues"
            raise InvalidArgument.at("start", "REQUIRED", message)
        status = await self._subscriptions.seek(
            caller.project_pk, request.subscription, read_start(request.start), request.etag
        )
        return pb.SeekSubscriptionResponse(subscription=write_subscription(status))

    async def PingSubscription(
        self, request: pb.PingSubscriptionRequest, caller: Caller
    ) -> pb.PingSubscriptionResponse:
        attempt = await self._subscriptions.ping(caller.project_pk, request.subscription)
        return pb.PingSubscriptionResponse(attempt=write_attempt(attempt))

    async def ConsumeMatches(
        self, requests: AsyncIterator[pb.ConsumeMatchesRequest], caller: Caller
    ) -> AsyncIterator[pb.ConsumeMatchesResponse | bytes]:
        opening = read_opening(await until(self._shutdown.stopping, anext(requests, None)))
        async with (
            aclosing(read_consumer_requests(requests)) as consumer_requests,
            aclosing(self._deliveries.consume(caller.project_pk, opening, consumer_requests)) as responses,
        ):
            async for response in responses:
                if (message := write_consumer_response(response)) is not None:
                    yield message

    async def PullMatches(self, request: pb.PullMatchesRequest, caller: Caller) -> bytes:
        batch = await self._deliveries.pull(
            caller.project_pk,
            request.subscription,
            read_consumer_id(request.consumer_id),
            read_max_matches(request.max_matches),
            _read_wait_seconds(request),
        )
        response = encode_pulled(batch)
        await self._deliveries.park(caller.project_pk, request.subscription, batch.unwritable)
        return response

    async def AcknowledgeMatches(
        self, request: pb.AcknowledgeMatchesRequest, caller: Caller
    ) -> pb.AcknowledgeMatchesResponse:
        results = await self._deliveries.settle(caller.project_pk, request.subscription, read_settlements(request))
        response = pb.AcknowledgeMatchesResponse()
        for result in results:
            write_result(result, response.results.add())
        return response

    async def ListParkedMatches(
        self, request: pb.ListParkedMatchesRequest, caller: Caller
    ) -> pb.ListParkedMatchesResponse:
        until = read_timestamp(request, "parked_until")
        page = await self._subscriptions.list_parked(
            caller.project_pk,
            request.subscription,
            ParkedSelection((), request.automation_id, until, not request.automation_id and until is None),
            PageRequest(request.page_size, request.page_token),
        )
        response = pb.ListParkedMatchesResponse()
        response.next_page_token = write_page(page, write_parked, response.parked_matches)
        return response

    async def ReplayParkedMatches(
        self, request: pb.ReplayParkedMatchesRequest, caller: Caller
    ) -> pb.ReplayParkedMatchesResponse:
        count = await self._subscriptions.replay_parked(
            caller.project_pk, request.subscription, read_selection(request.selection), dry_run=request.dry_run
        )
        return pb.ReplayParkedMatchesResponse(match_count=count)

    async def DiscardParkedMatches(
        self, request: pb.DiscardParkedMatchesRequest, caller: Caller
    ) -> pb.DiscardParkedMatchesResponse:
        count = await self._subscriptions.discard_parked(
            caller.project_pk, request.subscription, read_selection(request.selection), dry_run=request.dry_run
        )
        return pb.DiscardParkedMatchesResponse(match_count=count)


def _read_wait_seconds(request: pb.PullMatchesRequest) -> float:
    wait = read_duration(request, "wait") or 0
    if not 0 <= wait <= MAX_WAIT_SECONDS * _SECOND:
        message = f"wait is {wait / _SECOND:g} s; it must be 0 to {MAX_WAIT_SECONDS} seconds"
        raise InvalidArgument.at("wait", "OUT_OF_RANGE", message)
    return wait / _SECOND
