"""Pages of lists: sizes and tokens."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from server.errors import InvalidArgument, InvalidPageToken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

DEFAULT_SIZE = 50
MAX_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list; `next_token` is empty on the last one.

    `token_after` makes the token of the page that follows an item of this one.
    """

    items: Sequence[T]
    next_token: str
    token_after: Callable[[T], str]

    def first(self, count: int) -> Page[T]:
        """Return the page of the first `count` items, at least one."""
        if count >= len(self.items):
            return self
        return Page(self.items[:count], self.token_after(self.items[count - 1]), self.token_after)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The requested page: at most `size` items (0 for the default), after those of the page that returned the token."""

    size: int = 0
    token: str = ""

    def limit(self) -> int:
        """Return how many items the page holds at most. Raise InvalidArgument for a negative size."""
        if self.size < 0:
            message = f"page_size is {self.size}; it must not be negative"
            raise InvalidArgument.at("page_size", "OUT_OF_RANGE", message)
        return min(self.size or DEFAULT_SIZE, MAX_SIZE)

    def cursor(self, filters: object, *kinds: type, most: int = 2**63 - 1) -> tuple[Any, ...] | None:
        """Return the place after which the page begins, None for the first page.

        Raise InvalidPageToken unless the token was made by `page` with equal filters and a cursor of these types, with
        whole numbers up to `most`. Tokens can be forged, and a database refuses numbers that fit no column.
        """
        if not self.token:
            return None
        try:
            digest, *cursor = msgspec.json.decode(urlsafe_b64decode(self.token.encode("ascii")))
        except (ValueError, TypeError, RecursionError, binascii.Error) as error:
            raise InvalidPageToken from error
        whole = all(abs(value) <= most for value in cursor if type(value) is int)
        if digest != _digest(filters) or [type(value) for value in cursor] != list(kinds) or not whole:
            raise InvalidPageToken
        return tuple(cursor)

    def page(
        self, found: Sequence[T], filters: object, cursor: Callable[[T], tuple[Any, ...]], *, more: bool | None = None
    ) -> Page[T]:
        """Return a page of items.

        Without `more`, which says whether items follow, the items must have been read up to one beyond the limit.
        """

        def token_after(item: T) -> str:
            return urlsafe_b64encode(msgspec.json.encode([_digest(filters), *cursor(item)])).decode()

        items = found[: self.limit()]
        more = len(found) > len(items) if more is None else more
        return Page(items, token_after(items[-1]) if more else "", token_after)


def _digest(filters: object) -> str:
    return sha256(repr(filters).encode()).hexdigest()[:12]
