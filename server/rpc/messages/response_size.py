"""Limits of responses: by default, clients refuse messages larger than 4 MiB.

Every response that a caller can make large is written within these bounds. The rest goes to the next page, or
is left out and reported by a count or a flag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from server.paging import MAX_RESPONSE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from google.protobuf.message import Message

    from server.paging import Page

T = TypeVar("T")
M = TypeVar("M", bound="Message")

MAX_DETAIL_BYTES: Final = 1024 * 1024
"""The most bytes of the coercions of one event, or of the clauses of one trace."""

FRAMING: Final = 6
"""The most bytes of the tag and the length of an item."""

_SMALL: Final = 16
"""Up to this number, details are never too large: a path takes at most 32 KiB, and values no more than a payload."""


def write_page(
    page: Page[T], write: Callable[[T], M], into: RepeatedCompositeFieldContainer[M], room: int = MAX_RESPONSE_BYTES
) -> str:
    """Write the items of a page that fit into `room` bytes, at least one, and return the token of the next page."""
    for index, item in enumerate(page.items):
        message = write(item)
        room -= size_of(message)
        if index and room < 0:
            return page.first(index).next_token
        into.append(message)
    return page.next_token


def write_details(details: Sequence[T], write: Callable[[T, M], Any], into: RepeatedCompositeFieldContainer[M]) -> int:
    """Write the first MAX_DETAIL_BYTES of details, and return how many are left out."""
    room = MAX_DETAIL_BYTES
    for index, detail in enumerate(details):
        message = into.add()
        write(detail, message)
        if len(details) > _SMALL:
            room -= size_of(message)
            if room < 0:
                del into[-1]
                return len(details) - index
    return 0


def size_of(message: Message) -> int:
    """Return the bytes that a message takes as an item of another one."""
    return message.ByteSize() + FRAMING
