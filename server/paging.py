"""Pages of lists: sizes in items and in bytes, and tokens.

A token is the cursor of the next page. It is signed, together with the name and the filters of its list, with a secret
that all servers of a database share: callers cannot forge tokens, and a list refuses the tokens of another one. The
secret is set for each call when its caller is authenticated (`sign_with`).
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from registry.sql.text_columns import before_damaged
from server.errors import InvalidArgument, InvalidPageToken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

DEFAULT_SIZE = 50
MAX_SIZE = 1_000

MAX_RESPONSE_BYTES: Final = 4_000_000
"""The largest response: by default, clients refuse messages larger than 4 MiB. The rest is for tokens."""

_SIGNATURE_BYTES: Final = 16

_OWN_SECRET: Final = secrets.token_bytes()
"""The secret outside of calls: tokens that are signed with it never reach a caller."""

_secret: ContextVar[bytes] = ContextVar("page_token_secret", default=_OWN_SECRET)


def sign_with(secret: bytes) -> None:
    """Sign and check page tokens with this secret in the rest of the current task, and in tasks that it starts."""
    _secret.set(secret)


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
    # Taken where the request is made: a store function may run in a thread, which has no context of the call.
    _secret: bytes = field(default_factory=_secret.get, repr=False, kw_only=True)

    def limit(self) -> int:
        """Return how many items the page holds at most. Raise InvalidArgument for a negative size."""
        if self.size < 0:
            message = f"page_size is {self.size}; it must not be negative"
            raise InvalidArgument.at("page_size", "OUT_OF_RANGE", message)
        return min(self.size or DEFAULT_SIZE, MAX_SIZE)

    def cursor(self, filters: object, *kinds: type, most: int = 2**63 - 1) -> tuple[Any, ...] | None:
        """Return the cursor after which the page begins, None for the first page.

        `filters` begins with the name of the list. Raise InvalidPageToken unless the token was made by `page` with
        equal filters and a cursor of these types, whose integers are at most `most`, the largest that a column holds.
        """
        if not self.token:
            return None
        try:
            token = urlsafe_b64decode(self.token.encode("ascii"))
        except (ValueError, binascii.Error) as error:
            raise InvalidPageToken from error
        # The decoder skips characters outside its alphabet.
        if urlsafe_b64encode(token).decode() != self.token:
            raise InvalidPageToken
        signature, content = token[:_SIGNATURE_BYTES], token[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(filters, content)):
            raise InvalidPageToken
        cursor = msgspec.json.decode(content)
        whole = all(abs(value) <= most for value in cursor if type(value) is int)
        if [type(value) for value in cursor] != list(kinds) or not whole:
            raise InvalidPageToken
        return tuple(cursor)

    def page(
        self,
        found: Sequence[T],
        filters: object,
        cursor: Callable[[T], tuple[Any, ...]],
        *,
        more: bool | None = None,
        resume: tuple[Any, ...] | None = None,
    ) -> Page[T]:
        """Return a page of items.

        `found` has one item beyond the limit if there are more, unless `more` is given. `resume` is the cursor of the
        next page, by default that of the last item.
        """

        def token_at(place: tuple[Any, ...]) -> str:
            # Lists by id are descending.
            content = msgspec.json.encode([before_damaged(each) if isinstance(each, str) else each for each in place])
            return urlsafe_b64encode(self._sign(filters, content) + content).decode()

        def token_after(item: T) -> str:
            return token_at(cursor(item))

        items = found[: self.limit()]
        more = len(found) > len(items) if more is None else more
        following = (token_after(items[-1]) if resume is None else token_at(resume)) if more else ""
        return Page(items, following, token_after)

    def _sign(self, filters: object, content: bytes) -> bytes:
        # The text of filters is quoted, so the separator is unambiguous.
        signed = repr(filters).encode() + b"\n" + content
        return hmac.digest(self._secret, signed, "sha256")[:_SIGNATURE_BYTES]
