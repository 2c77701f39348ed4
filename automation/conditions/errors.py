"""What is wrong with the text of a condition."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at one place; line and column in characters, both from 1.

    `reason` is UPPER_SNAKE for programs and `message` a sentence for people.
    """

    line: int
    column: int
    reason: str
    message: str

    @classmethod
    def at(cls, text: str, offset: int, reason: str, message: str) -> Fault:
        """Place a fault at an offset into the text."""
        return cls(*place(text, offset), reason, message)


class ConditionInvalid(Exception):
    """A condition cannot be saved; every fault found is in `faults`, in their order in the text, at least one."""

    reason = "CONDITION_INVALID"

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        first = faults[0]
        message = f"Line {first.line}, column {first.column}: {first.message}"
        many = f"The condition has {len(faults)} faults, first: {message}"
        super().__init__(message if len(faults) == 1 else many)
        self.message = str(self)
        self.faults = faults


def place(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of an offset, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
