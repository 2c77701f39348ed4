"""Stand-in until the language is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automation.conditions.subject import Subject


class Condition:
    def __init__(self, text: str) -> None:
        self.text = text
        self.reads_contact = False

    def matches(self, subject: Subject) -> bool:
        raise NotImplementedError
