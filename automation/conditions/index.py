"""Stand-in until the language is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from automation.conditions.condition import Condition
    from automation.conditions.subject import Subject


class ConditionIndex:
    def __init__(self, conditions: Sequence[Condition | None]) -> None:
        self._all = range(len(conditions))

    def candidates(self, subject: Subject) -> Iterable[int]:
        return self._all
