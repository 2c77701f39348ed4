"""What was found at each path of the payloads, in bounded memory: the kinds of its values, and texts that repeat."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from registry.coercion.table import date_from_string, number_from_string
from registry.definitions.schema import MAX_SUGGESTED_VALUE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SUGGESTED: Final = 20
"""The most suggested values of a string property; one with more different values gets none."""

STRINGS: Final = {"date", "numeric string", "string"}
"""The kinds of strings."""


@dataclass(slots=True)
class Place:
    """What was found at one path."""

    path: str
    kinds: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    children: dict[str, Place] = field(default_factory=dict)
    items: Place | None = None
    texts: Counter[str] | None = field(default_factory=Counter)
    omitted: str = ""

    @property
    def values(self) -> int:
        """The number of values other than null."""
        return self.kinds.total() - self.kinds["null"]

    def has(self, kinds: set[str]) -> int:
        """Return the number of values of some kinds."""
        return sum(self.kinds[kind] for kind in kinds)


def all_places(root: Place) -> Iterator[Place]:
    """Yield a place and all below it."""
    yield root
    for child in root.children.values():
        yield from all_places(child)
    if root.items is not None:
        yield from all_places(root.items)


_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    dict: "object",
    list: "array",
}


def kind_of(value: Any) -> str:
    """Return the kind of a JSON value, in the words of a finding: `integer`, `date`, `numeric string`, ..."""
    if isinstance(value, str):
        return _kind_of_text(value)
    if isinstance(value, float):
        return "integer" if value.is_integer() else "decimal"
    return _KINDS[type(value)]


def _kind_of_text(text: str) -> str:
    if text[:1].isdigit() and date_from_string(text) is not None:
        return "date"
    return "numeric string" if number_from_string(text) is not None else "string"


def note_text(place: Place, text: str) -> None:
    """Count a text as a possible suggested value; drop all of them if they are too many, long, or may be addresses."""
    if place.texts is None:
        return
    place.texts[text] += 1
    if len(place.texts) > MAX_SUGGESTED or len(text) > MAX_SUGGESTED_VALUE_LENGTH or "@" in text or not text.strip():
        place.texts = None
