"""The way back from a coerced payload to the one that was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.coercion import CoercionKind
from registry.names import MAX_NAME_LENGTH
from registry.paths import path_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.coercion import Coercion
    from registry.values import JSON


def undo(properties: dict[str, JSON], coercions: Iterable[Coercion]) -> dict[str, JSON]:
    """Take the reported coercions back; the properties are altered in place, their order may be another one.

    A dropped property whose name was too long for its path comes back under the name that is in the path: it begins
    with the same 255 characters and like them is too long to be declared, so every schema judges it as the one sent.
    Of several that begin alike the last one comes back.
    """
    for coercion in coercions:
        _root, *way, last = path_parts(coercion.path)
        # Where a name was cut, what was only rounded is there under its whole name.
        if coercion.kind is CoercionKind.ROUNDED and any(
            isinstance(part, str) and len(part) > MAX_NAME_LENGTH for part in (*way, last)
        ):
            continue
        place: Any = properties
        for part in way:
            place = place[part]
        place[last] = coercion.before
    return properties
