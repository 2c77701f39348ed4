"""Reading matches with their automations and events, and following the match log."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import structlog

from automation.automation_store import automations_by_key
from automation.match_log import READ_LIMIT, log_start, match_id_at, read_filtered
from automation.matches import MatchFilter
from registry.sql.unreadable_rows import UNREADABLE, describe_error
from server.delivery.heartbeats import heartbeat_time
from server.delivery.recent_matches import LoadedMatch
from server.delivery.start_points import LogEnd, Place, check_kept, check_place, match_head, resolve_start
from server.paging import MAX_RESPONSE_BYTES
from server.storage.events.reading import event_sizes, events_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import Automation
    from automation.matches import Match
    from server.delivery.match_notifier import MatchNotifier
    from server.delivery.recent_matches import LoadStamp
    from server.delivery.start_points import StartPoint
    from server.storage.database import Database

T = TypeVar("T")

log = structlog.get_logger()

MAX_LOADED: Final = 1_000
"""The most matches that are loaded at once."""

# The most bytes of a character of JSON: `1,` is 11 bytes of a ListValue, and a character has up to 4 bytes of UTF-8.
_BYTES_PER_CHARACTER = 6
# The ids, times and numbers of a delivery and of the match and event in it, and the framing of a label.
_MATCH_BYTES, _LABEL = 1_000, 2

# A heartbeat is due early enough to be there within its interval, also where the log is read for it first.
_DUE_SHARE, _READ_SHARE = 0.75, 0.125


class UnreadableMatch(NamedTuple):
    """A match whose stored data cannot be read, and the reason."""

    match: Match
    reason: str


@dataclass(frozen=True)
class WatchQuery:
    """Which matches to watch. `heartbeat_seconds` is the longest time between two updates."""

    start: StartPoint = LogEnd.LATEST
    filter: MatchFilter = field(default_factory=MatchFilter)
    heartbeat_seconds: float = 10.0
    max_matches: int = 100

    @cached_property
    def selection(self) -> Hashable:
        """A value that is equal for queries that select the same matches."""
        labels = tuple(sorted(self.filter.labels.items()))
        return self.filter.automation_ids, labels, self.filter.event_names, self.max_matches


class WatchUpdate(NamedTuple):
    """The next matches, none for a heartbeat. All matches of the filter up to and including `place` are returned."""

    matches: Sequence[LoadedMatch]
    place: Place
    head_position: int


class SharedUpdate(WatchUpdate):
    """An update for all watchers with equal queries at the same place. `message` is its encoded form once needed."""

    message: bytes | None = None


class MatchReader:
    """Reads matches with their automations and events, and follows the log."""

    def __init__(self, database: Database, notifier: MatchNotifier) -> None:
        self._database = database
        self._notifier = notifier
        self._shared: dict[Hashable, SharedUpdate] = {}
        self._shared_content: Hashable = None

    async def load(
        self, project_pk: int, matches: Sequence[Match], texts: Sequence[str] | None = None
    ) -> list[LoadedMatch | UnreadableMatch]:
        """Load the first of these matches of a project, as `load_in` does: from memory, else in a transaction."""
        if recent := self.load_recent(project_pk, matches, texts):
            return [*recent]
        return await self._database.read(
            lambda connection: load_in(connection, project_pk, matches, texts), delivery=True
        )

    def load_recent(
        self, project_pk: int, matches: Sequence[Match], texts: Sequence[str] | None = None
    ) -> Sequence[LoadedMatch]:
        """Return the first of these matches, as many as fit into a response, if all of them are in memory."""
        found: list[LoadedMatch] = []
        characters = []
        for match in matches[:MAX_LOADED]:
            recent = self._notifier.recent.find(project_pk, match)
            if recent is None:
                return []
            found.append(recent)
            characters.append(recent.characters + _characters(recent.automation))
        return found[: _fitting_count(characters, texts or [""] * len(found))]

    def load_stamp(self) -> LoadStamp:
        """Return the current stamp, to be taken before matches are loaded."""
        return self._notifier.recent.load_stamp()

    def may_have_changed(self, since: LoadStamp) -> bool:
        """Return whether matches loaded at a stamp may have changed since: their contact may have been erased."""
        return self._notifier.recent.may_have_changed(since, shared=self._database.shared)

    def _recent_update(self, project_pk: int, query: WatchQuery, after: Place, epoch: int) -> WatchUpdate | None:
        """Return the next matches after a place if they are in memory, and the place was reached in the same epoch."""
        if epoch != self._database.epoch:
            return None
        head = self._notifier.known_position(project_pk)
        last = min(head, after.position + READ_LIMIT)
        recent = self._notifier.recent.between(project_pk, after.position, last)
        if not recent:
            return None
        # The id of the last match distinguishes what is in memory at different times.
        content = (project_pk, head, recent[-1].match.id, self._notifier.recent.version)
        if content != self._shared_content:
            self._shared_content = content
            self._shared.clear()
        key = (after, query.selection)
        if (shared := self._shared.get(key)) is not None:
            return shared
        passing = [match for match in recent if match.passes(query.filter)]
        first = passing[: query.max_matches]
        first = first[: _fitting_count([each.characters + _characters(each.automation) for each in first])]
        newest = first[-1].match if len(first) < len(passing) else recent[-1].match
        update = self._shared[key] = SharedUpdate(first, Place(newest.position, newest.id), head)
        return update

    async def watch(self, project_pk: int, query: WatchQuery) -> AsyncGenerator[WatchUpdate, None]:
        """Follow the match log of a project: the first update comes at once, then matches and heartbeats, for ever.

        Raise CursorInvalid, PositionBeyondHead, CursorExpired and CursorRewound.
        """
        with self._notifier.following(project_pk):
            async with aclosing(self._follow(project_pk, query)) as updates:
                async for update in updates:
                    yield update

    async def _follow(self, project_pk: int, query: WatchQuery) -> AsyncGenerator[WatchUpdate, None]:
        place, head = await self._begin(project_pk, query.start)
        interval, shared = query.heartbeat_seconds, self._database.shared
        due = _now()
        reading: asyncio.Task[WatchUpdate] | None = None
        epoch = self._database.epoch
        try:
            while True:
                update = None if reading is not None else self._recent_update(project_pk, query, place, epoch)
                if update is None:
                    if reading is None:
                        epoch = self._database.epoch
                        reading = asyncio.create_task(self._read(project_pk, query, place))
                    await asyncio.wait({reading}, timeout=max(due - _now(), 0) + interval * _READ_SHARE)
                    update = WatchUpdate((), place, head)
                    if reading.done():
                        update, reading = await reading, None
                place, head = update.place, update.head_position
                if update.matches or _now() >= due:
                    yield update
                    due = heartbeat_time(_now() + interval * _DUE_SHARE)
                if reading is None and place.position == head:
                    # An SQLite file loses nothing while it is open, so there is nothing to read for a heartbeat: that
                    # was half of the processor time of idle watchers.
                    while await self._notifier.wait_turn(project_pk, head, due - _now()) == head and not shared:
                        yield WatchUpdate((), place, head)
                        due = heartbeat_time(_now() + interval * _DUE_SHARE)
        finally:
            if reading is not None:
                reading.cancel()

    async def _begin(self, project_pk: int, start: StartPoint) -> tuple[Place, int]:
        def work(connection: Connection) -> tuple[Place, int]:
            position = resolve_start(connection, project_pk, start)
            return _place(connection, project_pk, position), match_head(connection, project_pk)

        return await self._database.read(work, delivery=True)

    async def _read(self, project_pk: int, query: WatchQuery, after: Place) -> WatchUpdate:
        return await self._database.read(
            lambda connection: read_on(connection, project_pk, query, after), delivery=True
        )


def read_on(connection: Connection, project_pk: int, query: WatchQuery, after: Place) -> WatchUpdate:
    """Read the next matches after a place, looking at up to READ_LIMIT matches of the log.

    Raise CursorExpired and CursorRewound.
    """
    head = match_head(connection, project_pk)
    check_place(connection, project_pk, after, head)
    check_kept(after.position, log_start(connection, project_pk).position)
    if after.position == head:
        return WatchUpdate((), after, head)
    matches = read_filtered(connection, project_pk, query.filter, after.position, query.max_matches + 1)
    loaded = load_in(connection, project_pk, matches[: query.max_matches])
    readable = list(_readable(loaded))
    if len(loaded) < len(matches):
        newest = loaded[-1].match
        return WatchUpdate(readable, Place(newest.position, newest.id), head)
    return WatchUpdate(readable, _place(connection, project_pk, min(after.position + READ_LIMIT, head)), head)


def _place(connection: Connection, project_pk: int, position: int) -> Place:
    return Place(position, match_id_at(connection, project_pk, position))


def load_in(
    connection: Connection, project_pk: int, matches: Sequence[Match], texts: Sequence[str] | None = None
) -> list[LoadedMatch | UnreadableMatch]:
    """Load the first of these matches of a project, in their order: MAX_LOADED, or as many as fit into a response.

    At least one is loaded, however large, unless there is none. `texts` are sent with each match in the response.
    Takes three queries. A match whose automation or event cannot be read is an UnreadableMatch; the others are read.
    """
    if not matches:
        return []
    automations, broken_automations = _read_each(
        lambda keys: automations_by_key(connection, keys), {match.automation_key for match in matches}
    )
    sizes = event_sizes(connection, project_pk, {match.event_position for match in matches[:MAX_LOADED]})
    first = fitting(matches[:MAX_LOADED], automations, sizes, texts or [""] * len(matches))
    events, broken_events = _read_each(
        lambda positions: events_at(connection, project_pk, positions), {match.event_position for match in first}
    )
    loaded: list[LoadedMatch | UnreadableMatch] = []
    for match in first:
        automation, event = automations.get(match.automation_key), events.get(match.event_position)
        if automation is None:
            reason = broken_automations.get(match.automation_key, "the row is missing")
            loaded.append(UnreadableMatch(match, f"Its automation cannot be read: {reason}"))
        elif automation.unreadable:
            loaded.append(UnreadableMatch(match, f"Its automation cannot be read: {automation.unreadable}"))
        elif event is None:
            reason = broken_events.get(match.event_position, "the row is missing")
            loaded.append(UnreadableMatch(match, f"Its event cannot be read: {reason}"))
        elif event.unreadable:
            loaded.append(UnreadableMatch(match, f"Its event cannot be read: {event.unreadable}"))
        else:
            loaded.append(LoadedMatch(match, automation, event))
    return loaded


def _read_each(
    read: Callable[[Collection[int]], dict[int, T]], keys: Collection[int]
) -> tuple[dict[int, T], dict[int, str]]:
    """Read rows by key, one by one if that fails for all. Return them, and the reasons of unreadable rows, by key."""
    try:
        return read(keys), {}
    except UNREADABLE:
        rows: dict[int, T] = {}
        broken: dict[int, str] = {}
    for key in keys:
        try:
            rows.update(read([key]))
        except UNREADABLE as error:
            broken[key] = describe_error(error)
    return rows, broken


def _readable(loaded: Iterable[LoadedMatch | UnreadableMatch]) -> Iterator[LoadedMatch]:
    """Yield the matches that could be read, but those of erased persons; unreadable ones are logged."""
    for match in loaded:
        if isinstance(match, UnreadableMatch):
            log_unreadable(match.match, match.reason)
        elif not match.event.erased_at:
            yield match


def log_unreadable(match: Match, reason: str) -> None:
    """Log that an unreadable match is skipped or parked."""
    log.error("match_unreadable", match=match.id, position=match.position, reason=reason)


def fitting(
    matches: Sequence[Match], automations: Mapping[int, Automation], sizes: Mapping[int, int], texts: Sequence[str]
) -> Sequence[Match]:
    """Return the first of the matches that fit into one response together, at least one.

    `automations` are by key, `sizes` the characters of events by position, `texts` is sent with the matches.
    """
    known = [
        sizes.get(match.event_position, 0)
        + (_characters(automation) if (automation := automations.get(match.automation_key)) else 0)
        for match in matches
    ]
    return matches[: _fitting_count(known, texts)]


def _fitting_count(characters: Sequence[int], texts: Sequence[str] = ()) -> int:
    """Return how many matches fit into one response, by the characters of each and the texts sent with them."""
    free_bytes = MAX_RESPONSE_BYTES
    for index, size in enumerate(characters):
        text = len(texts[index]) if texts else 0
        free_bytes -= _MATCH_BYTES + _BYTES_PER_CHARACTER * (size + text)
        if index and free_bytes < 0:
            return index
    return len(characters)


def _characters(automation: Automation) -> int:
    return len(automation.name) + sum(len(key) + len(value) + _LABEL for key, value in automation.labels.items())


def _now() -> float:
    return asyncio.get_running_loop().time()
