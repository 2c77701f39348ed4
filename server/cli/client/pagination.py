"""Lists, read page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable


class PagedRequest(Protocol):
    """A request of a list."""

    page_size: int
    page_token: str


class PagedAnswer(Protocol):
    """An answer of a list."""

    next_page_token: str


Q = TypeVar("Q", bound=PagedRequest)
A = TypeVar("A", bound=PagedAnswer)
T = TypeVar("T")

MAX_PAGE = 1_000


async def listed(
    call: Callable[[Q], Awaitable[A]], request: Q, items: Callable[[A], Iterable[T]], limit: int | None = None
) -> list[T]:
    """Read a list to its end or to the limit; says on stderr if there is more behind the limit."""
    found: list[T] = []
    while True:
        request.page_size = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(found))
        answer = await call(request)
        found += items(answer)
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            return found
        if limit is not None and len(found) >= limit:
            click.echo(f"These are the first {limit:,}; there are more: raise --limit.", err=True)
            return found
