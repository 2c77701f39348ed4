"""Steps of subscriptions that are taken in a group commit: one durable write for events and deliveries.

    begin      with a group: the steps that are due, and light ones of idle subscriptions that can lease its matches
    run        in the transaction, after the matches of the group are stored, which the step need not read
    end        once the transaction is durable: matches reach their consumers when the senders get their responses
    requeue    the transaction was rolled back, but not because of this step, which is taken again
    fail       the step failed, or may or may not be stored

The cost for the senders is bounded: with events, only light steps are taken. The others have groups of their own,
between those of the senders. A transaction that fails because of a step is repeated without steps, so that no step
fails a sender.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.log_reading import Recorded


class PiggybackedStep(Protocol):
    """A step that has begun."""

    project_pk: int

    def run(self, connection: Connection, recorded: Recorded) -> None:
        """Take the step in the transaction that recorded these matches. May be repeated."""
        ...

    def end(self) -> None:
        """Hand out the results. The transaction is durable."""
        ...

    def requeue(self) -> None:
        """Take the step again. The transaction was rolled back."""
        ...

    def fail(self, error: Exception) -> None:
        """Report an error to the consumers and submitters whose work the step took."""
        ...


class StepSource(Protocol):
    """The subscriptions in use."""

    def begin_light(self, project_pks: Collection[int]) -> Sequence[PiggybackedStep]:
        """Begin the light steps that can be taken with a commit of events of these projects."""
        ...

    def begin_due(self) -> Sequence[PiggybackedStep]:
        """Begin steps that are due, as many as one transaction takes."""
        ...

    @property
    def due(self) -> bool:
        """True if steps wait for a transaction."""
        ...


class NoSteps:
    """A source without steps, where there are no subscriptions."""

    due = False

    def begin_light(self, project_pks: Collection[int]) -> Sequence[PiggybackedStep]:
        """Return no step."""
        return ()

    def begin_due(self) -> Sequence[PiggybackedStep]:
        """Return no step."""
        return ()
