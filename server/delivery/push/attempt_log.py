"""The last requests of the subscriptions that this server pushes, which callers see with the subscription."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from automation.subscriptions.push import KEPT_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from automation.subscriptions.push import PushAttempt


class AttemptLog:
    """The last KEPT_ATTEMPTS of each subscription, newest first. They are stored by whoever takes the unsaved ones."""

    def __init__(self) -> None:
        self._by_key: dict[int, deque[PushAttempt]] = {}
        self._unsaved: set[int] = set()

    def open(self, key: int, stored: Iterable[PushAttempt]) -> None:
        """Begin with the stored attempts of a subscription, unless it is open."""
        if key not in self._by_key:
            self._by_key[key] = deque(stored, KEPT_ATTEMPTS)

    def add(self, key: int, attempt: PushAttempt) -> None:
        """Add an attempt of a subscription that is open."""
        self._by_key[key].appendleft(attempt)
        self._unsaved.add(key)

    def of(self, key: int) -> tuple[PushAttempt, ...] | None:
        """Return the attempts of a subscription, None if this server does not push it."""
        kept = self._by_key.get(key)
        return None if kept is None else tuple(kept)

    def take_unsaved(self) -> dict[int, Sequence[PushAttempt]]:
        """Return the attempts of the subscriptions with new ones, by their keys; from now on they count as stored."""
        unsaved, self._unsaved = self._unsaved, set()
        return {key: tuple(self._by_key[key]) for key in unsaved if key in self._by_key}

    def return_unsaved(self, unsaved: Mapping[int, Sequence[PushAttempt]]) -> None:
        """Take back attempts that could not be stored."""
        for key, attempts in unsaved.items():
            self.open(key, attempts)
        self._unsaved |= unsaved.keys()

    def keep(self, keys: Collection[int]) -> None:
        """Forget all other subscriptions, unless they have attempts that are not stored."""
        kept = {*keys, *self._unsaved}
        self._by_key = {key: attempts for key, attempts in self._by_key.items() if key in kept}
