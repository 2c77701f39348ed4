"""The errors in the text of a condition, with their places, and the exception that lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import SignalboxError, Violation

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class ConditionProblem:
    """One error in the text of a condition; line and column are in characters, both from 1.

    `reason` is UPPER_SNAKE for programs and `message` a sentence for people. It is a value, not an exception:
    ConditionInvalid is raised with all errors of a condition.
    """

    line: int
    column: int
    reason: str
    message: str

    @classmethod
    def at(cls, text: str, offset: int, reason: str, message: str) -> ConditionProblem:
        """Return an error at an offset into the text."""
        return cls(*line_and_column(text, offset), reason, message)

    def __str__(self) -> str:
        return f"Line {self.line}, column {self.column}: {self.message}"


class ConditionInvalid(SignalboxError):
    """A condition cannot be saved; `errors` says why, in their order in the text, and has at least one."""

    reason = "CONDITION_INVALID"

    def __init__(self, errors: Sequence[ConditionProblem]) -> None:
        many = f"The condition has {len(errors)} errors. The first one: {errors[0]}"
        violations = [Violation("condition", each.reason, str(each)) for each in errors]
        place = {"line": str(errors[0].line), "column": str(errors[0].column)}
        super().__init__(str(errors[0]) if len(errors) == 1 else many, violations=violations, **place)
        self.errors = tuple(errors)


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Return the line and the column of an offset, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
