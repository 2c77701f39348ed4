"""Field types that several dialects share, as the OpenAPI document describes them.

Most describe only: the handler that reads a field checks it, because each dialect has its own words for the error.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from registry.definitions.schema import PropertyType

Email: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "email", "maxLength": 254})]
Uuid: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
FlatType: TypeAlias = Literal["string", "number", "boolean", "date"]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=100)]

FLAT_TYPES: Final[dict[PropertyType, FlatType]] = {
    PropertyType.STRING: "string",
    PropertyType.NUMBER: "number",
    PropertyType.BOOLEAN: "boolean",
    PropertyType.DATE: "date",
}
"""The types that a dialect without nesting can show; it leaves out properties of other types."""

_UUID = re.compile(
    "[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}|0{8}-0{4}-0{4}-0{4}-0{12}|f{8}-f{4}-f{4}-f{4}-f{12}",
    re.IGNORECASE,
)


def is_uuid(text: str) -> bool:
    """Return whether a string has the form of a UUID."""
    return _UUID.fullmatch(text) is not None
