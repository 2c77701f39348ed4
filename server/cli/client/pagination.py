"""Reading lists page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable


class PagedRequest(Protocol):
    """A request for one page of a list."""

    page_size: int
    page_token: str


class PagedResponse(Protocol):
    """One page of a list."""

    next_page_token: str


Q = TypeVar("Q", bound=PagedRequest)
A = TypeVar("A", bound=PagedResponse)
T = TypeVar("T")

MAX_PAGE = 1_000


async def list_all(
    call: Callable[[Q], Awaitable[A]], request: Q, items: Callable[[A], Iterable[T]], limit: int | None = None
) -> list[T]:
    """Return all items of a list, or the first `limit`; report on stderr if there are more."""
    listed: list[T] = []
    while True:
        request.page_size = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(listed))
        response = await call(request)
        listed += items(response)
        request.page_token = response.next_page_token
        if not response.next_page_token:
            return listed
        if limit is not None and len(listed) >= limit:
            click.echo(f"Showing the first {limit:,}; raise --limit to see more.", err=True)
            return listed
