"""Suggestions for misspelled names: "did you mean ...?".

A name is suggested if it differs in case and separators only, or by one edit. Each name is indexed as it is and with
each of its characters left out. Two names that are one edit apart have such a key in common, so the cost of a lookup
depends on the length of the name alone, not on the number of declared names.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_LENGTH: Final = 64
"""Longer names are neither suggested nor looked up."""

_SEPARATORS: Final = str.maketrans("", "", "_-. ")


class Suggestions:
    """The declared names of one object."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def closest(self, name: str) -> str | None:
        """Return the declared name that was probably meant; None if no name is close."""
        if len(name) > MAX_LENGTH:
            return None
        return next((self._index[key] for key in _keys(name) if key in self._index), None)

    @cached_property
    def _index(self) -> dict[str, str]:
        return {key: name for name in reversed(self._names) if len(name) <= MAX_LENGTH for key in _keys(name)}


def _keys(name: str) -> Iterator[str]:
    plain = name.casefold().translate(_SEPARATORS)
    yield plain
    if len(plain) > 2:
        yield from (plain[:index] + plain[index + 1 :] for index in range(len(plain)))
