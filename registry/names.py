"""The rules for names.

Names of events and properties are those of senders. Those of projects, automations, subscriptions and API keys are
given by people and read by others, in lists, logs and questions, so they must not contain characters that reorder the
text around them.
"""

from __future__ import annotations

import re
from typing import Final

from registry.errors import InvalidName

MAX_NAME_LENGTH: Final = 255
RESERVED_PREFIX: Final = "signalbox:"

# C0 and C1 controls, the two Unicode line breaks, and lone surrogates, which no UTF-8 can carry.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def name_problem(name: str) -> str | None:
    """Return the problem with the name of an event or property, worded to follow its subject; None if it is valid."""
    if not name.strip():
        return "must not be blank"
    if len(name) > MAX_NAME_LENGTH:
        return f"must be at most {MAX_NAME_LENGTH} characters long; it has {len(name)}"
    if control := _CONTROL.search(name):
        code, place = ord(control.group()), control.start() + 1
        return f"must not contain control characters; character {place} is U+{code:04X}"
    return None


def given_name_problem(name: str, before: str = "") -> str | None:
    """Return the problem with a resource's new name, worded to follow its subject; None if it is valid.

    Its name `before` the change stays valid, so that resources older than a rule can still be updated.
    """
    if name == before != "":
        return None
    if problem := name_problem(name):
        return problem
    if found := _REORDERING.search(name):
        code, place = ord(found.group()), found.start() + 1
        return f"must not contain characters that reorder text; character {place} is U+{code:04X}"
    return None


def check_event_name(name: str, field: str = "name") -> None:
    """Raise InvalidName, for a field of the request, unless this is a valid name of an event.

    Every non-blank text of at most 255 characters without control characters is valid, unless it begins with
    `signalbox:` in any case, which is reserved.
    """
    if problem := name_problem(name):
        raise InvalidName(f"The event name {problem}", field)
    if name.casefold().startswith(RESERVED_PREFIX):
        raise InvalidName(f'The event name must not begin with "{RESERVED_PREFIX}", which is reserved', field)
