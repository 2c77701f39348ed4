"""A compiled condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automation.conditions.compiling import compile_condition
from automation.conditions.nodes import CONTACT, Path, walk
from automation.conditions.parsing import parse
from automation.conditions.tracing import trace_condition

if TYPE_CHECKING:
    from automation.conditions.subject import Subject
    from automation.conditions.tracing import Clause
    from automation.conditions.values import Failure


class Condition:
    """A condition that was parsed and compiled from its text; blank text always holds.

    Raise ConditionInvalid as `parse` does.
    """

    __slots__ = ("evaluate", "expression")

    def __init__(self, text: str) -> None:
        self.expression = parse(text)
        self.evaluate = compile_condition(self.expression.root)

    def matches(self, subject: Subject) -> bool:
        """Return whether the condition holds; a condition that fails does not."""
        return self.evaluate(subject) is True

    def failure(self, subject: Subject) -> Failure | None:
        """Return the failure of the condition; None if it is true or false."""
        outcome = self.evaluate(subject)
        return None if isinstance(outcome, bool) else outcome

    def trace(self, subject: Subject) -> list[Clause]:
        """Return the condition and its clauses with their verdicts, each before its parts; nothing for blank text."""
        return trace_condition(self.expression, subject)

    @property
    def reads_contact(self) -> bool:
        """Whether the condition reads the contact."""
        return any(isinstance(node, Path) and node.names[0] == CONTACT for node in walk(self.expression.root))

    @property
    def properties_read(self) -> frozenset[str]:
        """The paths of the properties of the event that it reads, such as `properties.order.total`."""
        paths = (node for node in walk(self.expression.root) if isinstance(node, Path))
        return frozenset(str(path) for path in paths if path.names[0] == "properties")
