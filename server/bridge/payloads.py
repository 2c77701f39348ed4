"""Checks of the JSON values of requests: the rules of `registry.values.json_values`, as InvalidArgument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.values.json_values import EVENT_BUDGET, PayloadBudget, payload_violation, with_doubles
from server.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping


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
