"""The way back from a coerced payload to the one that was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.coercion import ChangeKind
from registry.names import MAX_NAME_LENGTH, path_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.coercion import Change
    from registry.values import JSON


def undo(properties: dict[str, JSON], changes: Iterable[Change]) -> dict[str, JSON]:
    """Take the reported changes back; the properties are altered in place, their order may be another one.

    A dropped property whose name was too long for its path comes back under the name that is in the path: it begins
    with the same 255 characters and like them is too long to be declared, so every schema judges it as the one sent.
    Of several that begin alike the last one comes back.
    """
    for change in changes:
        _root, *way, last = path_parts(change.path)
        # Where a name was cut, what was only rounded is there under its whole name.
        if change.kind is ChangeKind.ROUNDED and any(
            isinstance(part, str) and len(part) > MAX_NAME_LENGTH for part in (*way, last)
        ):
            continue
        place: Any = properties
        for part in way:
            place = place[part]
        place[last] = change.before
    return properties
