"""Contacts between the fields of a dialect and the properties that are kept.

The dialects name a few fields and have a place for all others; kept are all of them side by side, under one name
whatever the dialect calls it: `first_name`, `last_name`, `user_id`, `unsubscribed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.budgets import CONTACT_BUDGET, hold_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from server.model import Contact


def given_properties(named: Mapping[str, Any], others: dict[str, Any], received: int, root: str) -> dict[str, Any]:
    """Put together what a body of so many bytes says; a named field that is None is not said.

    `root` is where the body has the others. Raises InvalidArgument if they are too many or too deep.
    """
    held = hold_json(others, received, root, CONTACT_BUDGET)
    return {**held, **{name: value for name, value in named.items() if value is not None}}


def named_texts(contact: Contact, names: Collection[str]) -> dict[str, str | None]:
    """Give the named fields, None where they are not kept or are no text."""
    found = {name: contact.properties.get(name) for name in names}
    return {name: value if isinstance(value, str) else None for name, value in found.items()}


def other_properties(contact: Contact, names: Collection[str]) -> dict[str, Any]:
    """Give what is kept beside the named fields."""
    return {name: value for name, value in contact.properties.items() if name not in names}
