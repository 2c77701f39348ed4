"""Steps of delivery that ride with a group commit: one transaction, one durable write for events and deliveries.

    board      with a group: the steps that are due, and those of idle subscriptions that can take its matches
    run        in the transaction, after the matches of the group are stored, which the step need not read
    end        once the transaction is durable: matches reach their consumers when the senders get their responses
    put back   the transaction was rolled back for another reason than this step, which is taken again
    fail       the step failed, or may or may not be stored

What riding costs the senders is bounded: with events, only light steps ride. The others have groups of their own,
between those of the senders. A transaction that a rider breaks is repeated without riders, so that no step fails a
sender.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.log_reading import Recorded


class Rider(Protocol):
    """A step that has begun."""

    project_pk: int

    def run(self, connection: Connection, recorded: Recorded) -> None:
        """Take the step in the transaction that recorded these matches. May be repeated."""
        ...

    def end(self) -> None:
        """Hand out the results. The transaction is durable."""
        ...

    def put_back(self) -> None:
        """Take the step again. The transaction was rolled back."""
        ...

    def fail(self, error: Exception) -> None:
        """Report an error to the consumers and submitters whose work the step took."""
        ...


class Riders(Protocol):
    """The subscriptions in use."""

    def board(self, project_pks: Collection[int]) -> Sequence[Rider]:
        """Begin the light steps that can be taken with a commit of events of these projects."""
        ...

    def board_due(self) -> Sequence[Rider]:
        """Begin steps that are due, as many as one transaction takes."""
        ...

    @property
    def due(self) -> bool:
        """True if steps wait for a transaction."""
        ...


class NoRiders:
    """Nobody rides: there are no subscriptions."""

    due = False

    def board(self, project_pks: Collection[int]) -> Sequence[Rider]:
        """Return no step."""
        return ()

    def board_due(self) -> Sequence[Rider]:
        """Return no step."""
        return ()
