"""Paths of properties, by which reports name a place in a payload: `properties.lines[2].sku`."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Final, TypeAlias

from registry.names import MAX_NAME_LENGTH

ROOT: Final = "properties"
"""The path of a payload as a whole."""

PathPart: TypeAlias = str | int
"""The name of a property, or the index of an array item."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Earlier releases recorded paths without a dot after the index of an item: `properties.lines[2]sku`.
_PART = re.compile(r'(?:\A|\.|(?<=\]))([A-Za-z_][A-Za-z0-9_]*)|\[("(?:[^"\\]|\\.)*")\]|\[([0-9]+)\]')
_QUOTED = re.compile(r'\[("(?:[^"\\]|\\.)*")\]')


def property_path(parent: str, name: str) -> str:
    """Return `properties.order_total`, or `properties["a.b"]` for a name that is not an identifier.

    A name that is too long to be declared is shortened, so that paths stay short.
    """
    if len(name) > MAX_NAME_LENGTH:
        name = name[:MAX_NAME_LENGTH] + "…"
    if _IDENTIFIER.fullmatch(name):
        return f"{parent}.{name}"
    # A name with half a surrogate pair is rejected, and the path in that report must still be valid UTF-8.
    return f"{parent}[{json.dumps(name, ensure_ascii=not name.isascii() and bool(_SURROGATE.search(name)))}]"


# Coercions of a project's events have the same few paths.
@lru_cache(maxsize=1_000)
def path_parts(path: str) -> tuple[PathPart, ...]:
    """Return the parts of a path: ("properties", "items", 2, "a.b") for `properties.items[2]["a.b"]`."""
    return tuple(_part(match) for match in _PART.finditer(path))


@lru_cache(maxsize=1_000)
def without_indexes(path: str) -> str:
    """Return a path without array indexes: `properties.lines[].sku` for `properties.lines[2].sku`."""
    return _PART.sub(lambda match: "[]" if match[3] else match[0], path)


def _part(match: re.Match[str]) -> PathPart:
    name, quoted, index = match.groups()
    if index:
        return int(index)
    return name or str(json.loads(quoted))


def quoted_property(path: str) -> str:
    r"""Return the quoted name of the property at a path, for messages: `"order_total"`, `"customer.age"`, `"a.b"`."""
    inside = path.removeprefix(ROOT).removeprefix(".")
    quoted = _QUOTED.fullmatch(inside)
    return quoted.group(1) if quoted else f'"{inside}"'
