"""A condition ready for use."""

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
    """The text of a condition, compiled. Raise ConditionInvalid as `parse` does; blank text always holds."""

    __slots__ = ("evaluate", "expression")

    def __init__(self, text: str) -> None:
        self.expression = parse(text)
        self.evaluate = compile_condition(self.expression.root)

    def matches(self, subject: Subject) -> bool:
        """Whether the condition holds; one that fails does not."""
        return self.evaluate(subject) is True

    def failure(self, subject: Subject) -> Failure | None:
        """Return why the condition came to neither true nor false; None if it did."""
        outcome = self.evaluate(subject)
        return None if isinstance(outcome, bool) else outcome

    def trace(self, subject: Subject) -> list[Clause]:
        """Say clause by clause what the condition came to, itself first; nothing for blank text."""
        return trace_condition(self.expression, subject)

    @property
    def reads_contact(self) -> bool:
        """Whether the outcome may depend on the contact."""
        return any(isinstance(node, Path) and node.names[0] == CONTACT for node in walk(self.expression.root))

    @property
    def properties_read(self) -> frozenset[str]:
        """The paths of the event's properties that it reads, such as `properties.order.total`."""
        paths = (node for node in walk(self.expression.root) if isinstance(node, Path))
        return frozenset(str(path) for path in paths if path.names[0] == "properties")
