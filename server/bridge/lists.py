"""Pages of lists that are in memory whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


def beside(items: Sequence[T], limit: int, after_id: str = "", before_id: str = "") -> tuple[Sequence[T], bool]:
    """Give so many items next after one id or next before another, and whether there are more that way.

    An id that none has any more stands where it would in the order of ids, newest first.
    """
    if before_id:
        newer = [each for each in items if each.id > before_id]
        return newer[-limit:], len(newer) > limit
    older = [each for each in items if each.id < after_id] if after_id else items
    return older[:limit], len(older) > limit
