"""Which declared name was meant by one that is not: the same but for case and separators, or one edit away.

The names are indexed with each of their characters left out, so a look-up costs as much as a name is long, however
many there are and whatever a caller sends.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_LENGTH: Final = 64
"""Longer names are not looked at."""

_SEPARATORS: Final = str.maketrans("", "", "_-. ")


class Suggestions:
    """The declared names of one object."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def closest(self, name: str) -> str | None:
        """Find the declared name that was probably meant, None if there is none."""
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
        yield from (plain[:place] + plain[place + 1 :] for place in range(len(plain)))
