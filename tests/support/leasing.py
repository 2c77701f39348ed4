"""One subscription over a database, driven step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from sqlalchemy import insert

from automation.automation_store import create_automation
from automation.automations import AutomationState, NewAutomation
from automation.match_log import match_values
from automation.matches import Match, MatchKind
from automation.run_transitions import new_run_values
from automation.subscriptions.leasing import NO_BOUNDS, step
from automation.subscriptions.parked_matches import list_parked, replay_parked
from automation.subscriptions.store import (
    create_subscription,
    get_subscription,
    seek_subscription,
)
from automation.subscriptions.values import (
    Delivery,
    DeliveryRequest,
    ParkedSelection,
    SearchBounds,
    SettleOutcome,
    SettleResult,
    Subscription,
    TakeOver,
    Undelivered,
)
from automation.tables import automation_match, run
from registry.log_ids import LogIds
from tests.support import subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.values import Settlement, StepResult
    from server.storage.database import Database

T = TypeVar("T")

SECOND = 1_000_000
NOW = 1_780_000_000 * SECOND
PROJECT = 7
ALL = ParkedSelection(all=True)

SUBSCRIPTION = replace(subscriptions.SUBSCRIPTION, project_pk=PROJECT, created_at=NOW, updated_at=NOW)


def match(position: int, contact: int = 0, automation: int = 1, event: str = "order_completed") -> Match:
    ids = LogIds(NOW)
    return Match(
        position, ids.make(position), MatchKind.STARTED, automation, position, ids.make(position), position, event,
        contact, NOW + position,
    )  # fmt: skip


def record(connection: Connection, matches: Sequence[Match]) -> None:
    names = [column.name for column in automation_match.columns]
    rows = [dict(zip(names, match_values(PROJECT, each), strict=True)) for each in matches]
    connection.execute(insert(automation_match), rows)
    names = [column.name for column in run.columns]
    connection.execute(insert(run), [dict(zip(names, new_run_values(PROJECT, each), strict=True)) for each in matches])


def make_automation(connection: Connection, number: int, labels: dict[str, str]) -> int:
    wanted = NewAutomation(f"automation {number}", "order_completed", state=AutomationState.ACTIVE, labels=labels)
    return create_automation(connection, PROJECT, str(UUID(int=number)), wanted, 0, NOW).key


@dataclass
class Engine:
    """Drives one subscription; time is a number that the tests advance."""

    database: Database
    subscription: Subscription
    now: int = NOW

    async def do(self, work: Callable[[Connection], T]) -> T:
        return await self.database.write(work)

    async def record(self, *matches: Match) -> None:
        await self.do(lambda connection: record(connection, matches))

    async def step(
        self,
        *settlements: Settlement | Undelivered,
        requests: Sequence[DeliveryRequest] = (),
        take_overs: Sequence[TakeOver] = (),
        bounds: SearchBounds = NO_BOUNDS,
    ) -> StepResult:
        key, now = self.subscription.key, self.now
        return await self.do(
            lambda connection: step(connection, key, lambda: now, settlements, requests, take_overs, bounds)
        )

    async def lease(self, room: int = 100, consumer: str = "a", *settlements: Settlement) -> list[Delivery]:
        return (await self.step(*settlements, requests=[DeliveryRequest(consumer, room, 1_000)])).deliveries[0]

    async def settle(self, settle: Settlement) -> list[SettleResult]:
        return (await self.step(settle)).results[0]

    async def read(self) -> Subscription:
        return await self.do(lambda connection: get_subscription(connection, PROJECT, self.subscription.id))

    async def seek(self, position: int) -> Subscription:
        return await self.do(
            lambda connection: seek_subscription(connection, PROJECT, self.subscription.id, position, "", self.now)
        )

    async def parked(self) -> list[int]:
        found = await self.do(lambda connection: list_parked(connection, self.subscription, ALL, 100))
        return [each.match.position for each in found]

    async def replay(self, selection: ParkedSelection = ALL) -> int:
        return await self.do(lambda connection: replay_parked(connection, self.subscription.key, selection, self.now))


async def engine_for(database: Database, wanted: Subscription = SUBSCRIPTION) -> Engine:
    return Engine(database, await database.write(lambda connection: create_subscription(connection, wanted)))


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.id for each in deliveries]


def positions(deliveries: Sequence[Delivery]) -> list[int]:
    return [each.match.position for each in deliveries]


def outcomes(results: Sequence[SettleResult]) -> list[SettleOutcome]:
    return [each.outcome for each in results]
