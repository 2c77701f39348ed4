"""What a request to a receiver ends with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Response:
    """The head of a response."""

    status: int
    retry_after: str = ""


class PushFailed(Exception):
    """A request had no response; the text says why. `unsent` if no connection could be made to send it on."""

    def __init__(self, reason: str, *, unsent: bool = False) -> None:
        super().__init__(reason)
        self.unsent = unsent


class PushWithdrawn(Exception):
    """A request was not sent, because it must not be sent any more."""
