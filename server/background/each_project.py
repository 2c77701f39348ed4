"""Work on one project after another, any of which may be deleted meanwhile, its rows in any order."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from server.errors import KeyInvalid
from server.process.recurring import try_each
from server.storage.projects.projects import project_by_pk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from server.storage.database import Database

T = TypeVar("T")


async def try_each_project(
    database: Database, items: Iterable[T], project_of: Callable[[T], int], work: Callable[[T], Awaitable[None]]
) -> None:
    """Call `work` for every item even if it fails for some. `project_of` returns the key of an item's project.

    Raise the last failure, but none of a project that is deleted: half of its rows may be gone.
    """

    async def unless_deleted(item: T) -> None:
        try:
            await work(item)
        except Exception:
            try:
                await database.read(partial(project_by_pk, key=project_of(item)), brief=True)
            except KeyInvalid:
                return
            raise

    await try_each(items, unless_deleted)
