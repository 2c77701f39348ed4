"""How the matches of a server reach their consumers."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.app.lifecycle import close_in_time
from server.delivery.deliveries import Deliveries
from server.delivery.dispatchers import Dispatchers
from server.delivery.match_reader import MatchReader
from server.delivery.push.attempt_log import AttemptLog
from server.delivery.push.budget import PushBudget
from server.delivery.push.client import PushClient
from server.delivery.push.networks import PushNetworks
from server.delivery.push.push_settings import PushSettings
from server.delivery.push.pushers import Pushers
from server.delivery.push.resolver import Resolver
from server.delivery.push.session import PushTools
from server.rpc.messages.pushes import push_body_writer
from server.services.subscriptions import Subscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.app.ingestion import Ingestion
    from server.app.management import Management
    from server.app.measures import Measures
    from server.app.storage import Storage
    from server.process.shutdown import Shutdown
    from server.settings import Settings
    from server.sharing.loop_time import LoopTime


@dataclass(frozen=True, slots=True)
class Delivery:
    """The match log as watchers read it, the subscriptions to it, and their deliveries to consumers."""

    matches: MatchReader
    subscriptions: Subscriptions
    deliveries: Deliveries


@asynccontextmanager
async def delivering(
    settings: Settings,
    storage: Storage,
    management: Management,
    measures: Measures,
    ingestion: Ingestion,
    shutdown: Shutdown,
    loop_time: LoopTime,
) -> AsyncIterator[Delivery]:
    """Deliver matches to consumers, and push those of subscriptions that push."""
    database, notifier, queue = storage.database, ingestion.notifier, ingestion.queue
    metrics, tracer = measures.metrics, measures.tracer
    async with AsyncExitStack() as stack:
        matches = MatchReader(database, notifier)
        dispatchers = Dispatchers(database, notifier, schedule=queue.schedule_steps, times=metrics.subscriptions.times)
        queue.steps = dispatchers
        stack.push_async_callback(close_in_time, dispatchers.close, settings.grace_seconds)

        client = PushClient(Resolver(PushNetworks(settings.push_networks)))
        stack.push_async_callback(client.close)
        budget, write_body = PushBudget(), push_body_writer(loop_time)
        tools = PushTools(dispatchers, matches, client, budget, AttemptLog(), metrics, write_body, tracer)
        metrics.watch_pushes(lambda: budget.used)
        pushers = Pushers(database, tools, shutdown, storage.outages)
        pushers.start()
        management.projects.on_delete.append(pushers.end_project)
        stack.push_async_callback(close_in_time, pushers.close, settings.grace_seconds)

        pushes = PushSettings(tools, pushers.apply)
        subscriptions = Subscriptions(database, dispatchers, matches, pushes, management.changes)
        yield Delivery(matches, subscriptions, Deliveries(subscriptions, dispatchers, matches, shutdown, tracer))
