"""A subscription in memory, and the neighbours of the dispatcher in a server, in virtual time.

`ModelSubscription.step` does what `automation.subscriptions.leasing.step` does in the tables, with limits so small that
a step often leaves something to the next one. `tests/test_leasing_model.py` holds the real step to the same statements.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from automation.automations import Automation, AutomationState, EntryRule
from automation.errors import SubscriptionNotFound
from automation.matches import Match, MatchKind
from automation.subscriptions.log_reading import Recorded
from automation.subscriptions.store import LEASED, WAITING, SubscriptionLocked
from automation.subscriptions.values import (
    Ack,
    Backoff,
    Delivery,
    Extend,
    NackAction,
    SettleOutcome,
    SettleResult,
    StepResult,
    Undelivered,
    delivery_id,
    parse_delivery_ids,
)
from server.delivery.recent_matches import LoadedMatch
from server.errors import StorageBusy, StorageUnavailable
from server.ingest.piggyback import NoSteps
from server.model import Event
from tests.support import subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from automation.subscriptions.values import DeliveryRequest, SearchBounds, Settlement, TakeOver
    from server.delivery.dispatcher import Dispatcher
    from server.ingest.piggyback import PiggybackedStep, StepSource

T = TypeVar("T")

SECOND: Final = 1_000_000
PROJECT: Final = 7
READ_LIMIT: Final = 6
EXPIRE_LIMIT: Final = 3
FILTERED: Final = 5
"""The filter excludes every fifth match."""

SUBSCRIPTION = replace(
    subscriptions.SUBSCRIPTION,
    key=1,
    project_pk=PROJECT,
    ack_deadline=SECOND,
    max_attempts=4,
    backoff=Backoff(SECOND // 10, SECOND // 2),
    version=1,
)
_AUTOMATION = Automation(
    1, PROJECT, "a", "a", "ordered", "", AutomationState.ACTIVE, EntryRule.EVERY_TIME, {}, {}, 0, 1, 1, 1
)
_EVENT = Event("e", 1, "ordered", "d", 1, "c", "ada@example.com", {}, (), 1, 1, 1)


@dataclass(slots=True)
class _Row:
    state: str
    serial: int
    attempt: int
    consumer_id: str
    due_at: int


class ModelSubscription:
    """The state of a subscription, lease by lease."""

    def __init__(self) -> None:
        self.current = SUBSCRIPTION
        self.head = 0
        self.read_position = 0
        self.serial = 0
        self.seek_serial = 0
        self.rows: dict[int, _Row] = {}
        self.parked: set[int] = set()
        self.deleted = False
        self.steps = 0
        self.locked: Callable[[], bool] = lambda: False
        """Whether another server has locked the subscription."""

    def step(
        self,
        connection: Any,
        subscription_key: int,
        clock: Callable[[], int],
        settlements: Sequence[Settlement | Undelivered],
        requests: Sequence[DeliveryRequest],
        take_overs: Sequence[TakeOver],
        bounds: SearchBounds,
        recorded: Recorded | None = None,
    ) -> StepResult:
        """Settle, take over, expire and lease."""
        self.steps += 1
        if recorded is not None and self.locked():
            raise SubscriptionLocked(str(subscription_key))
        if self.deleted:
            raise SubscriptionNotFound(str(subscription_key))
        now = clock()
        results = [[self._settle(each, settle, now) for each in settle.delivery_ids] for settle in settlements]
        kept = [self._take_over(each, now) for each in take_overs]
        more = self._expire(now)
        rooms = [self._room(want) for want in requests]
        again = sorted((row.due_at, at) for at, row in self.rows.items() if row.state == WAITING and row.due_at <= now)[
            : sum(rooms)
        ]
        if recorded is not None and recorded.matches and recorded.matches[0].position != self.read_position + 1:
            first, read_more = list[int](), sum(rooms) > len(again)
        else:
            first, read_more = self._read_on(sum(rooms) - len(again))
        places = iter([at for _, at in again] + first)
        deliveries = [
            [self._lease(at, want.consumer_id, now) for at in islice(places, room)]
            for want, room in zip(requests, rooms, strict=True)
        ]
        outstanding = {want.consumer_id: self.outstanding(want.consumer_id) for want in requests}
        more = more or read_more
        self.current = replace(self.current, read_position=self.read_position, last_serial=self.serial)
        exhausted = not more and sum(map(len, deliveries)) < sum(rooms)
        due = [row.due_at for row in self.rows.values() if row.due_at > now]
        return StepResult(self.current, results, kept, deliveries, outstanding, more, exhausted, min(due, default=0))

    def outstanding(self, consumer_id: str) -> int:
        """Count the leases of a consumer."""
        return sum(row.state == LEASED and row.consumer_id == consumer_id for row in self.rows.values())

    def available(self, now: int) -> int:
        """Count the matches that a step could lease now."""
        due = sum(row.state == WAITING and row.due_at <= now for row in self.rows.values())
        return due + sum(map(_passes, range(self.read_position + 1, self.head + 1)))

    def drained(self) -> bool:
        """Return whether every match is settled."""
        return not self.rows and not self.available(0)

    def seek(self, position: int) -> None:
        """Continue after a position."""
        self.rows.clear()
        self.read_position, self.seek_serial = position, self.serial

    def replay(self, now: int) -> None:
        """Deliver the parked matches again."""
        for at in self.parked:
            if at <= self.read_position:
                self.rows[at] = _Row(WAITING, 0, 0, "", now)
        self.parked.clear()

    def _settle(self, name: str, settle: Settlement | Undelivered, now: int) -> SettleResult:
        position, serial = parse_delivery_ids(self.current, [name])[name] or (0, 0)
        row = self.rows.get(position)
        if row is None or row.serial != serial or row.state != LEASED:
            return SettleResult(name, SettleOutcome.STALE)
        if isinstance(settle, Extend):
            row.due_at = now + (self.current.ack_deadline if settle.duration is None else settle.duration)
            return SettleResult(name, SettleOutcome.EXTENDED, row.due_at)
        if isinstance(settle, Undelivered):
            row.state, row.due_at, row.attempt = WAITING, 0, row.attempt - 1
            return SettleResult(name, SettleOutcome.RETRYING)
        if isinstance(settle, Ack) or settle.action is NackAction.SKIP:
            del self.rows[position]
            return SettleResult(name, SettleOutcome.ACKNOWLEDGED)
        if settle.action is NackAction.PARK:
            self._park(position)
            return SettleResult(name, SettleOutcome.PARKED)
        self._fail(position, now + (settle.delay or 0))
        return SettleResult(name, SettleOutcome.RETRYING)

    def _take_over(self, wanted: TakeOver, now: int) -> list[str]:
        own = {
            delivery_id(self.current.tag, at, row.serial): at
            for at, row in self.rows.items()
            if row.state == LEASED and row.consumer_id == wanted.consumer_id
            if wanted.newest_serial is None or row.serial <= wanted.newest_serial
        }
        for name, at in own.items():
            if name not in wanted.held_delivery_ids:
                self._fail(at, now)
        return [each for each in wanted.held_delivery_ids if each in own]

    def _expire(self, now: int) -> bool:
        ended = [at for at, row in self.rows.items() if row.state == LEASED and row.due_at <= now][:EXPIRE_LIMIT]
        for at in ended:
            self._fail(at, now + self.current.backoff.delay(self.rows[at].attempt))
        return len(ended) == EXPIRE_LIMIT

    def _fail(self, position: int, due_at: int) -> None:
        row = self.rows[position]
        if row.attempt >= self.current.max_attempts:
            self._park(position)
        else:
            row.state, row.due_at = WAITING, due_at

    def _park(self, position: int) -> None:
        del self.rows[position]
        self.parked.add(position)

    def _room(self, want: DeliveryRequest) -> int:
        if want.max_outstanding is None:
            return want.capacity
        return max(0, min(want.capacity, want.max_outstanding - self.outstanding(want.consumer_id)))

    def _read_on(self, room: int) -> tuple[list[int], bool]:
        end = min(self.head, self.read_position + READ_LIMIT)
        if not room or end == self.read_position:
            return [], False
        full = end == self.read_position + READ_LIMIT
        found = [at for at in range(self.read_position + 1, end + 1) if _passes(at)][:room]
        self.read_position = found[-1] if len(found) == room else end
        return found, full and len(found) < room

    def _lease(self, position: int, consumer_id: str, now: int) -> Delivery:
        self.serial += 1
        row = self.rows.setdefault(position, _Row(LEASED, 0, 0, "", 0))
        row.state, row.serial, row.consumer_id = LEASED, self.serial, consumer_id
        row.attempt, row.due_at = row.attempt + 1, now + self.current.ack_deadline
        self.parked.discard(position)
        name = delivery_id(self.current.tag, position, self.serial)
        return Delivery(name, consumer_id, row.attempt, _match(position), row.due_at, False, "")


class ModelDatabase:
    """One writer in virtual time; some of its transactions fail, before or after their commit."""

    epoch = 0

    def __init__(self, model: ModelSubscription, random: Random, *, shared: bool) -> None:
        self.shared = shared
        self.failing = 0.0
        self._model = model
        self._random = random
        self._writer = asyncio.Lock()

    async def write(self, work: Callable[[Any], T]) -> T:
        """Run work after a while, and return a while after it took effect. A caller that gives up does not stop it."""
        return await asyncio.shield(asyncio.ensure_future(self._write(work)))

    async def _write(self, work: Callable[[Any], T]) -> T:
        async with self._writer:
            await self.delay()
            if self._random.random() < self.failing:
                raise StorageBusy
            result = work(None)
            await self.delay()
            if self._random.random() < self.failing:
                raise StorageUnavailable
        return result

    async def check(self) -> None:
        """Return: the database always accepts writes."""

    @property
    def writing(self) -> bool:
        """True while a transaction runs."""
        return self._writer.locked()

    async def read(self, work: Callable[[Any], T], *, brief: bool = False, delivery: bool = False) -> Any:
        """Return the ends of the match logs: nothing else is read."""
        await self.delay()
        if self._random.random() < self.failing:
            raise StorageBusy
        return {PROJECT: self._model.head}

    async def close(self) -> None:
        """Do nothing."""

    async def delay(self, seconds: float = 0.02) -> None:
        """Yield to other tasks for one turn of the loop, or for up to some time."""
        await asyncio.sleep(self._random.choice((0, self._random.random() * seconds)))


class ModelCommits:
    """A group commit of one writer: groups of steps that are due, and matches that are recorded with light steps."""

    def __init__(self, database: ModelDatabase, model: ModelSubscription) -> None:
        self.steps: StepSource = NoSteps()
        self._database = database
        self._model = model
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()

    def schedule(self) -> None:
        """Commit the steps that are due."""
        self._wake.set()

    async def run(self) -> None:
        """Commit groups of steps, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._turn:
                await self._commit(self.steps.begin_due(), 0)
            if self.steps.due:
                self._wake.set()

    async def record(self, count: int) -> int:
        """Record matches with the light steps. Return the end of the log."""
        async with self._turn:
            await self._commit(self.steps.begin_light({PROJECT}), count)
        return self._model.head

    async def _commit(self, steps: Sequence[PiggybackedStep], count: int) -> None:
        def work(_: Any) -> None:
            first = self._model.head + 1
            self._model.head += count
            recorded = Recorded([_match(at) for at in range(first, first + count)])
            for step in steps:
                step.run(None, recorded)  # type: ignore[arg-type]

        try:
            await self._database.write(work)
        except StorageBusy:
            # Nothing was committed: senders try again, and so do the steps.
            for step in steps:
                step.requeue()
        except StorageUnavailable as error:
            for step in steps:
                step.fail(error)
        else:
            for step in steps:
                step.end()


class ModelMatches:
    """Loads a part of the deliveries, as if their events were large."""

    def __init__(self, database: ModelDatabase, random: Random) -> None:
        self._database = database
        self._random = random

    async def load(self, project_pk: int, matches: Sequence[Match], texts: Sequence[str]) -> list[LoadedMatch]:
        """Load the first of these matches."""
        await self._database.delay()
        if self._random.random() < self._database.failing:
            raise StorageBusy
        return self._fitting(matches)

    def load_recent(self, project_pk: int, matches: Sequence[Match], texts: Sequence[str]) -> list[LoadedMatch]:
        """Load the first of these matches if they are in memory."""
        return self._fitting(matches) if matches and self._random.random() < 0.5 else []

    def _fitting(self, matches: Sequence[Match]) -> list[LoadedMatch]:
        count = len(matches) if self._random.random() < 0.8 else self._random.randint(1, len(matches))
        return [LoadedMatch(match, _AUTOMATION, _EVENT) for match in matches[:count]]


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _passes(position: int) -> bool:
    return position % FILTERED != 0


def _match(position: int) -> Match:
    return Match(position, f"m{position}", MatchKind.STARTED, 1, position, "r", 1, "ordered", 0, 1)


def set_clock(dispatcher: Dispatcher, clock: Callable[[], int]) -> None:
    """Replace the clocks of a dispatcher, the server's and the database's, by one in microseconds."""
    dispatcher._clock = clock
    dispatcher._clock_in = lambda connection: clock
