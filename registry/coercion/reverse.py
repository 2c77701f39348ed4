"""The way back from a coerced payload to the one that was sent.

Only the coerced payload and its coercions are stored; the sent payload, which a backtest needs, is computed from them:

    CONVERTED, ROUNDED               put `before` where `after` is
    NULL_DROPPED, UNKNOWN_DROPPED    put `before` where nothing is
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.coercion.report import CoercionKind
from registry.names import MAX_NAME_LENGTH
from registry.paths import path_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.coercion.report import Coercion
    from registry.values.plain_json import JSON


def undo(properties: dict[str, JSON], coercions: Iterable[Coercion]) -> dict[str, JSON]:
    """Undo the coercions of a payload. Its properties are changed in place; their order is not restored.

    A dropped property whose name was too long for its path returns under the shortened name of the path. That name has
    the same first 255 characters and is also too long to be declared, so every schema treats it like the sent one. Of
    several with the same beginning only the last one returns.
    """
    for coercion in coercions:
        _root, *parents, last = path_parts(coercion.path)
        # A rounded number is still there under its whole name, which a shortened path does not lead to.
        if coercion.kind is CoercionKind.ROUNDED and any(
            isinstance(part, str) and len(part) > MAX_NAME_LENGTH for part in (*parents, last)
        ):
            continue
        container: Any = properties
        for part in parents:
            container = container[part]
        container[last] = coercion.before
    return properties
