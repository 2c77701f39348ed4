"""What one payload may hold, whichever door it comes in by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.errors import Violation
from server.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
MAX_BYTES: Final = 256 * 1024
MAX_CONTACT_VALUES: Final = 1_000
MAX_CONTACT_BYTES: Final = 64 * 1024

MAX_RESPONSE_BYTES: Final = 4_000_000
"""Of one response: clients refuse messages beyond 4 MiB unless they are told otherwise. The rest is for tokens."""

# A flat object of so many bytes has fewer values than any budget allows.
_SMALL: Final = 4_900


class PayloadBudget:
    """What one payload may hold: levels of nesting, values in all, bytes as it is sent."""

    def __init__(self, depth: int = MAX_DEPTH, values: int = MAX_VALUES, size: int = MAX_BYTES) -> None:
        self.depth = depth
        self.values = values
        self.size = size


EVENT_BUDGET = PayloadBudget()
CONTACT_BUDGET = PayloadBudget(values=MAX_CONTACT_VALUES, size=MAX_CONTACT_BYTES)
AUTOMATION_BUDGET = PayloadBudget()
RUN_BUDGET = PayloadBudget(values=1_000, size=64 * 1024)


def check_json(
    values: Mapping[str, Any], received: int, root: str = "properties", budget: PayloadBudget = EVENT_BUDGET
) -> None:
    """Hold plain JSON, which came in a text of so many bytes, against a budget, without recursion.

    Raises InvalidArgument.
    """
    flat = not any(type(value) is dict or type(value) is list for value in values.values())
    if flat and received <= _SMALL:
        return
    _check_nesting(values, root, budget)
    if received > budget.size:
        size = len(msgspec.json.encode(values))
        if size > budget.size:
            raise broken(root, "TOO_LARGE", f"{root} takes {size:,} bytes; at most {budget.size:,} are allowed")


def broken(path: str, reason: str, message: str) -> InvalidArgument:
    """Make the error of a payload that breaks a rule at one place."""
    return InvalidArgument(message, violations=[Violation(path, reason, message)])


def check_count(count: int, root: str, budget: PayloadBudget) -> None:
    """Raise InvalidArgument for more values than a budget allows."""
    if count > budget.values:
        raise broken(root, "TOO_MANY_VALUES", f"{root} may hold {budget.values:,} values, not more")


def _check_nesting(values: Mapping[str, Any], root: str, budget: PayloadBudget) -> None:
    level: list[Any] = [values]
    count = depth = 0
    while level:
        depth += 1
        if depth > budget.depth:
            raise broken(root, "TOO_DEEP", f"{root} may be nested {budget.depth} levels deep, not more")
        count += sum(map(len, level))
        check_count(count, root, budget)
        level = [inner for each in level for inner in _containers(each)]


def _containers(value: Any) -> Iterable[Any]:
    members = value.values() if isinstance(value, dict) else value
    return (inner for inner in members if isinstance(inner, dict | list))
