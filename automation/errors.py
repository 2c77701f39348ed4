"""Everything the automations refuse.

    AutomationError              a SignalboxError
    ├── InvalidAutomation        a field of an automation breaks its rule
    ├── TooManyAutomations       the project has as many automations as a project may have
    ├── ConditionsBroken         a schema would break conditions that are in use
    ├── AutomationNotFound
    ├── AutomationActive         an active automation cannot be deleted
    ├── AutomationNotActive      a draft cannot be paused
    ├── RunNotFound
    ├── RunFinished              the run has ended
    ├── RunMovedOn               the run has a newer match than the caller's
    ├── RunWithoutContact        a run without a contact cannot wait for an event
    ├── InvalidSubscription      a field of a subscription breaks its rule
    ├── SubscriptionNotFound
    └── SubscriptionAlreadyExists

A condition that cannot be saved is refused with ConditionInvalid (`automation.conditions.errors`).

The APIs translate `reason`; the message is for people and may be shown to the caller as it is. The docstring of an
error class is its message, unless its constructor makes another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import SignalboxError, Violation

if TYPE_CHECKING:
    from collections.abc import Sequence


class AutomationError(SignalboxError):
    """An automation, a run or a subscription refused a request."""


class InvalidAutomation(AutomationError):
    """A field of an automation breaks its rule."""

    reason = "INVALID_AUTOMATION"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(violations[0].message, violations=violations)


class TooManyAutomations(AutomationError):
    """The project has as many automations as a project may have."""

    reason = "TOO_MANY_AUTOMATIONS"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The project already has {limit:,} automations, the maximum; delete one first")


class ConditionsBroken(AutomationError):
    """A schema would break conditions of active automations or of waiting runs; the violations say which, and where."""

    reason = "CONDITIONS_BROKEN"

    def __init__(self, violations: Sequence[Violation], names: Sequence[str], ids: Sequence[str]) -> None:
        many = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        super().__init__(
            f'The schema would break conditions in use by the automation "{names[0]}"{many}. The first error: '
            f"{violations[0].message}. Change the conditions first, or use force",
            violations=violations,
            automations=", ".join(ids),
        )


class AutomationNotFound(AutomationError):
    """There is no automation with the ID "{automation}" in this project."""

    reason = "AUTOMATION_NOT_FOUND"

    def __init__(self, automation_id: str) -> None:
        super().__init__(automation=automation_id)


class AutomationActive(AutomationError):
    """The automation is active, and so cannot be deleted."""

    reason = "AUTOMATION_ACTIVE"

    def __init__(self, automation_id: str) -> None:
        super().__init__("The automation is active; pause it before deleting it", automation=automation_id)


class AutomationNotActive(AutomationError):
    """The automation was never active and so cannot be paused."""

    reason = "AUTOMATION_NOT_ACTIVE"

    def __init__(self, automation_id: str) -> None:
        super().__init__(
            "The automation is a draft and cannot be paused; only an active automation can", automation=automation_id
        )


class RunNotFound(AutomationError):
    """There is no run with the ID "{run}" in this project."""

    reason = "RUN_NOT_FOUND"

    def __init__(self, run_id: str) -> None:
        super().__init__(run=run_id)


class RunFinished(AutomationError):
    """The run has ended, and not as the request asks."""

    reason = "RUN_FINISHED"

    def __init__(self, run_id: str, status: str) -> None:
        super().__init__(f"The run has already ended; it is {status}", run=run_id, status=status)


class RunMovedOn(AutomationError):
    """The run has a newer match than the one that the caller works on; without an id where it is no longer kept."""

    reason = "RUN_MOVED_ON"

    def __init__(self, run_id: str, match_id: str) -> None:
        newest = (
            f'its newest match is "{match_id}"'
            if match_id
            else "its newest match is another one, which has been deleted"
        )
        super().__init__(f"The run has moved on: {newest}", run=run_id, match=match_id)


class RunWithoutContact(AutomationError):
    """The run has no contact, so it cannot wait for an event of its contact."""

    reason = "RUN_WITHOUT_CONTACT"

    def __init__(self, run_id: str) -> None:
        super().__init__(run=run_id)


class InvalidSubscription(AutomationError):
    """A field of a subscription breaks its rule."""

    reason = "INVALID_SUBSCRIPTION"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(violations[0].message, violations=violations)


class SubscriptionNotFound(AutomationError):
    """There is no subscription "{subscription}" in this project."""

    reason = "SUBSCRIPTION_NOT_FOUND"

    def __init__(self, subscription: str) -> None:
        super().__init__(subscription=subscription)


class SubscriptionAlreadyExists(AutomationError):
    """Another subscription of the project has this name."""

    reason = "SUBSCRIPTION_ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f'A subscription named "{name}" already exists in this project', subscription=name)
