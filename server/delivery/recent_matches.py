"""A cache of the newest matches, with their events and automations, for consumers that have caught up with the log.

A commit adds its matches if anyone follows the log of its project. They are kept for RECENT_SECONDS, and up to
RECENT_CHARACTERS of a project's events.

The event, contact or automation of a match may change: a contact is deleted, an automation renamed. Then `forget` drops
the matches of the project and raises `version`. A commit reads `version` before it begins and adds its matches only if
it is still the same: otherwise its transaction may have read the state before the change. A change by another server on
the same database is not noticed; such matches are out of date for RECENT_SECONDS at most.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from automation.match_log import passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.automations import Automation
    from automation.matches import Match, MatchFilter
    from server.model import Event

RECENT_SECONDS: Final = 0.5
"""As long as a change by another server may go unnoticed otherwise."""

HELD_SECONDS: Final = 0.25
"""As long as a match that was loaded may wait to be sent without being looked at again, where servers share it."""

RECENT_CHARACTERS: Final = 1_000_000
RECENT_PROJECTS: Final = 64
"""Of more projects, those that recorded last are kept."""


class LoadedMatch(NamedTuple):
    """A match with its event and automation; the automation has no attributes, and may be deleted."""

    match: Match
    automation: Automation
    event: Event


class LoadStamp(NamedTuple):
    """The version of the matches in memory and the time, as they were when loading began."""

    version: int
    at: float


class RecentMatch(LoadedMatch):
    """A match in memory. `characters` is the size of its event, `message` its encoded form once it was needed."""

    characters: int
    message: bytes | None

    @classmethod
    def of(cls, match: Match, automation: Automation, event: Event, characters: int) -> RecentMatch:
        """Return a match that is not encoded yet."""
        made = cls(match, automation, event)
        made.characters, made.message = characters, None
        return made

    def passes(self, match_filter: MatchFilter) -> bool:
        """Return whether the match passes a filter."""
        return passes(self.match, self.automation, match_filter)


class _Tail:
    """The newest matches of one log, without a gap."""

    def __init__(self) -> None:
        self.by_position: dict[int, tuple[float, RecentMatch]] = {}
        self.last = 0
        self.characters = 0

    def append(self, matches: Sequence[RecentMatch], now: float) -> None:
        if matches[0].match.position != self.last + 1:
            self.by_position.clear()
            self.characters = 0
        for match in matches:
            self.by_position[match.match.position] = now, match
            self.characters += match.characters
        self.last = matches[-1].match.position
        while self.by_position:
            first = next(iter(self.by_position))
            recorded_at, match = self.by_position[first]
            if self.characters <= RECENT_CHARACTERS and now - recorded_at <= RECENT_SECONDS:
                break
            self.characters -= match.characters
            del self.by_position[first]


class RecentMatches:
    """The newest matches of the projects whose logs are followed."""

    def __init__(self) -> None:
        self._tails: dict[int, _Tail] = {}
        self.version = 0

    def record(self, project_pk: int, matches: Sequence[RecentMatch], version: int) -> None:
        """Add the matches of a commit, in the order of positions; `version` is that at the beginning of the commit."""
        if not matches or version != self.version:
            return
        tail = self._tails.pop(project_pk, None) or _Tail()
        self._tails[project_pk] = tail
        tail.append(matches, monotonic())
        if len(self._tails) > RECENT_PROJECTS:
            del self._tails[next(iter(self._tails))]

    def forget(self, project_pk: int) -> None:
        """Drop the matches of a project: what they refer to has changed."""
        self.version += 1
        self._tails.pop(project_pk, None)

    def load_stamp(self) -> LoadStamp:
        """Return the current stamp."""
        return LoadStamp(self.version, monotonic())

    def may_have_changed(self, since: LoadStamp, *, shared: bool) -> bool:
        """Return whether matches may have changed since a stamp, by other servers too if the database is shared."""
        return since.version != self.version or (shared and monotonic() - since.at > HELD_SECONDS)

    def find(self, project_pk: int, match: Match) -> RecentMatch | None:
        """Return a match if it is in memory."""
        tail = self._tails.get(project_pk)
        found = tail.by_position.get(match.position) if tail is not None else None
        if found is None or found[0] < monotonic() - RECENT_SECONDS or found[1].match.id != match.id:
            return None
        return found[1]

    def between(self, project_pk: int, after: int, last: int) -> list[RecentMatch]:
        """Return all matches after a position, up to and including `last`; none if some of them are not in memory."""
        tail = self._tails.get(project_pk)
        if tail is None or last <= after or tail.last < last:
            return []
        oldest = monotonic() - RECENT_SECONDS
        first = tail.by_position.get(after + 1)
        if first is None or first[0] < oldest:
            return []
        return [tail.by_position[position][1] for position in range(after + 1, last + 1)]
