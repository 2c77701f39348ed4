"""Checks of JSON values for the APIs: the rules of `registry.json_values`, as InvalidArgument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from registry.json_values import (
    AUTOMATION_BUDGET,
    CONTACT_BUDGET,
    EVENT_BUDGET,
    MAX_BYTES,
    MAX_CONTACT_BYTES,
    MAX_CONTACT_VALUES,
    MAX_DEPTH,
    MAX_VALUES,
    RUN_BUDGET,
    PayloadBudget,
    payload_violation,
    too_many,
    with_doubles,
)
from server.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AUTOMATION_BUDGET",
    "CONTACT_BUDGET",
    "EVENT_BUDGET",
    "MAX_BYTES",
    "MAX_CONTACT_BYTES",
    "MAX_CONTACT_VALUES",
    "MAX_DEPTH",
    "MAX_RESPONSE_BYTES",
    "MAX_VALUES",
    "RUN_BUDGET",
    "PayloadBudget",
    "check_count",
    "check_json",
    "storable_json",
]

MAX_RESPONSE_BYTES: Final = 4_000_000
"""The largest response: by default, clients refuse messages larger than 4 MiB. The rest is for tokens."""


def check_json(
    values: Mapping[str, Any], received: int, root: str = "properties", budget: PayloadBudget = EVENT_BUDGET
) -> None:
    """Check plain JSON, which came in a text of `received` bytes. Raise InvalidArgument."""
    if violation := payload_violation(values, root, budget, received):
        raise InvalidArgument.of(violation)


def storable_json(values: dict[str, Any], received: int, root: str, budget: PayloadBudget) -> dict[str, Any]:
    """Check plain JSON as `check_json` does, and return it as it is stored where no schema coerces it."""
    check_json(values, received, root, budget)
    stored: dict[str, Any] = with_doubles(values)
    return stored


def check_count(count: int, root: str, budget: PayloadBudget) -> None:
    """Raise InvalidArgument for more values than a budget allows."""
    if count > budget.values:
        raise InvalidArgument.of(too_many(root, budget))
