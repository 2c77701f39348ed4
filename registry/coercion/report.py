"""What the coercion of a payload reports: the coercions of a valid one, the violations of a rejected one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.errors import PayloadRejected, Violation
from registry.paths import quoted_property

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.values.plain_json import JSON

MAX_VIOLATIONS: Final = 100
"""Validation of a payload stops at this many violations."""

MAX_COERCIONS: Final = 1_000
MAX_COERCION_CHARACTERS: Final = 256 * 1024
"""The most coercions of a payload that are reported, and the most characters of their paths; the rest is counted.

A path may have 40,000 characters and a payload 10,000 values, so the report of a payload of 50 KB could take 400 MB.
"""

SENT: Final = "; got "
"""Comes before the value in the message of a violation."""
SENT_PERSONAL: Final = "; the value that was sent is personal"
"""Replaces SENT and the value for a caller who may not see the value."""


class CoercionKind(StrEnum):
    """The kinds of coercion."""

    CONVERTED = "converted"
    """The value was converted to the declared type."""
    ROUNDED = "rounded"
    """A number beyond ±2^53 became the nearest double. If it was an integer, its last digits may have changed."""
    NULL_DROPPED = "null_dropped"
    """A null was removed: for an optional property it counts as absent."""
    UNKNOWN_DROPPED = "unknown_dropped"
    """An undeclared property was removed, by the policy DROP."""


# msgspec structs: some are made for every event, in an eighth of the time that a frozen dataclass takes.
class Coercion(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One difference between the payload that was sent and the coerced one.

    `before` and `after` are equal for a number that a client may have ROUNDED before it arrived; `after` is None for a
    dropped value. Both are JSON, of whose recursive type msgspec makes no decoder.
    """

    path: str
    kind: CoercionKind
    before: Any
    after: Any


class CoercedPayload(msgspec.Struct, frozen=True):
    """A valid payload in its canonical form, keys in the order sent, with the coercions that led to it.

    `omitted` is the number of further coercions that are not reported.
    """

    properties: dict[str, JSON]
    coercions: tuple[Coercion, ...]
    omitted: int = 0


class Report(msgspec.Struct):
    """The coercions and violations of one payload.

    Steps are compiled before the indexes of array items are known, so paths inside an array are relative to the item:
    `trail` holds the paths of the enclosing arrays, each followed by the index of the current item.
    """

    limit: int
    coercions: list[Coercion] = []
    violations: list[Violation] = []
    trail: tuple[str | int, ...] = ()
    omitted: int = 0
    room: int = MAX_COERCION_CHARACTERS

    def at(self, path: str) -> str:
        """Return the full path of a path that was compiled relative to the current item."""
        if not self.trail:
            return path
        return "".join(part if isinstance(part, str) else f"[{part}]" for part in self.trail) + path

    def coerced(self, path: str | Callable[[], str], kind: CoercionKind, before: JSON, after: JSON) -> None:
        """Add a coercion; once the budget is used up, only count it. A path that may be long is given as a function."""
        if self.omitted or len(self.coercions) == MAX_COERCIONS:
            self.omitted += 1
            return
        full = path if isinstance(path, str) else path()
        if self.trail:
            full = self.at(full)
        self.room -= len(full)
        if self.room < 0:
            self.omitted += 1
            return
        self.coercions.append(Coercion(full, kind, before, after))

    def reject(
        self, path: str | Callable[[], str], reason: str, problem: str, expected: str = "", masked: str = ""
    ) -> None:
        """Add a violation, whose message is the path followed by the problem. Raise PayloadRejected at the limit.

        `masked` is the problem without the value, for a personal property.
        """
        full = self.at(path if isinstance(path, str) else path())
        subject = f"Property {quoted_property(full)}"
        shown_masked = f"{subject} {masked}" if masked else ""
        self.violations.append(Violation(full, reason, f"{subject} {problem}", expected, shown_masked))
        if len(self.violations) == self.limit:
            raise PayloadRejected(tuple(self.violations))
