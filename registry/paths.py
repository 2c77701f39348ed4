"""Reading the paths by which reports name properties: `properties.lines[2]["a.b"]`."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TypeAlias

Part: TypeAlias = str | int
"""The name of a property, or the index of an array item."""

_PART = re.compile(r'\.([A-Za-z_][A-Za-z0-9_]*)|\[("(?:[^"\\]|\\.)*")\]|\[([0-9]+)\]')


# A project's events are changed in the same few places.
@lru_cache(maxsize=1_000)
def path_parts(path: str) -> tuple[Part, ...]:
    """Give the names and indexes that lead from a payload to the property at a path."""
    return tuple(_part(found) for found in _PART.finditer(path))


@lru_cache(maxsize=1_000)
def without_indexes(path: str) -> str:
    """Leave the array indexes out: `properties.lines[].sku`."""
    return _PART.sub(lambda found: "[]" if found[3] else found[0], path)


def _part(found: re.Match[str]) -> Part:
    name, quoted, index = found.groups()
    if index:
        return int(index)
    return name or str(json.loads(quoted))
