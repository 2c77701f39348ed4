"""Personal properties: which values of a payload are about a person, by its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.schema import Property


def keep_not_personal(properties: Mapping[str, Any], declared: Iterable[Property], address: str = "") -> dict[str, Any]:
    """Return the properties that are declared, and not as personal, at every level that declares properties.

    Values that contain the address in any letter case are left out as well, wherever it is in them.
    """
    kept: dict[str, Any] = {}
    for each in declared:
        if each.personal or each.name not in properties:
            continue
        value = _keep_nested(properties[each.name], each, address) if each.properties else properties[each.name]
        if not address or not _contains(value, address):
            kept[each.name] = value
    return kept


def _keep_nested(value: Any, declared: Property, address: str) -> Any:
    if isinstance(value, dict):
        return keep_not_personal(value, declared.properties, address)
    if isinstance(value, list):
        return [_keep_nested(item, declared, address) for item in value]
    return value


def _contains(value: Any, address: str) -> bool:
    """Return whether the JSON of a value contains a text, in any letter case."""
    escaped = msgspec.json.encode(address).decode()[1:-1]
    return escaped.lower() in msgspec.json.encode(value).decode().lower()
