"""A compiled condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automation.conditions.compiling import UNLIMITED, base_cost, compile_condition, compile_plain, is_late
from automation.conditions.costs import growth
from automation.conditions.nodes import CONTACT, Path, walk
from automation.conditions.parsing import parse
from automation.conditions.tracing import trace_condition

if TYPE_CHECKING:
    from automation.conditions.nodes import Node
    from automation.conditions.subject import Subject
    from automation.conditions.tracing import Clause
    from automation.conditions.values import Failure


class Condition:
    """A condition that was parsed and compiled from its text; blank text always holds.

    `spend` evaluates it and returns the outcome and the cost, see `compile_condition`. `growth` estimates the cost that
    grows with the payload. If there is none, `plain` evaluates it, at `cost`. A `late` condition reads a value that
    only the commit knows; it is never plain. Raise ConditionInvalid as `parse` does.
    """

    __slots__ = ("cost", "expression", "growth", "late", "plain", "reads_contact", "spend")

    def __init__(self, text: str) -> None:
        self.expression = parse(text)
        root = self.expression.root
        self.spend = compile_condition(root)
        self.growth = growth(root)
        self.late = is_late(root)
        self.plain = compile_plain(root) if not self.growth and not self.late else None
        self.cost = base_cost(root)
        self.reads_contact = any(isinstance(node, Path) and node.names[0] == CONTACT for node in walk(root))

    @property
    def text(self) -> str:
        """The text of the condition."""
        return self.expression.text

    def evaluate(self, subject: Subject) -> bool | Failure:
        """Return the outcome of the condition."""
        return self.spend(subject, UNLIMITED)[0]

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
    def properties_read(self) -> frozenset[str]:
        """The paths of the properties of the event that it reads."""
        return properties_read(self.expression.root)


def properties_read(root: Node) -> frozenset[str]:
    """Return the paths of the properties of the event that a condition reads, such as `properties.order.total`."""
    paths = (node for node in walk(root) if isinstance(node, Path))
    return frozenset(str(path) for path in paths if path.names[0] == "properties")
