"""The dialects as the tests of what they have in common speak them: one entry for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EVENT = "signed_up"
"""Has a property `seats`, a number."""


@dataclass(frozen=True)
class Speaker:
    """One dialect.

    `prefixes` begin its keys. `listing` is a path whose GET is answered by 200, `lacking` one that only another dialect
    has. `send` says, given a contact's id and the value of `seats`, how Ada's event is sent, and `sent` is the status
    of the answer. `fault` gives the text of an error's body, which must be of the dialect's shape. `requests` are its
    rate limit, `over_limit` is said beyond it, and `standing` are the headers that tell of it.
    """

    dialect: str
    prefixes: tuple[str, ...]
    listing: str
    lacking: str
    send: Callable[[str, Any], tuple[str, Any]]
    sent: int
    fault: Callable[[Mapping[str, Any], int], str]
    requests: int
    over_limit: str
    standing: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.dialect


def _autosend_fault(body: Mapping[str, Any], _: int) -> str:
    assert set(body) == {"success", "error"}
    assert body["success"] is False
    assert set(body["error"]) - {"details", "status"} == {"message", "code"}
    assert body["error"]["code"].replace("_", "").isupper()
    return str(body["error"]["message"])


def _emailsendx_fault(body: Mapping[str, Any], _: int) -> str:
    assert set(body) == {"error"}
    return str(body["error"])


def _arsel_fault(body: Mapping[str, Any], status: int) -> str:
    assert set(body) == {"status_code", "name", "message"}
    assert body["status_code"] == status
    assert body["name"].replace("_", "").islower()
    return str(body["message"])


AUTOSEND = Speaker(
    dialect="autosend",
    prefixes=("AS_",),
    listing="/v1/events",
    lacking="/api/v1/contacts",
    send=lambda _, seats: (
        "POST /v1/events/send",
        {"eventName": EVENT, "email": ADA, "eventProperties": {"seats": seats}},
    ),
    sent=201,
    fault=_autosend_fault,
    requests=600,
    over_limit="Rate limit exceeded. Try again in {seconds} seconds.",
)
EMAILSENDX = Speaker(
    dialect="emailsendx",
    prefixes=("esx_live_", "esx_test_"),
    listing="/api/v1/automations",
    lacking="/v1/events",
    send=lambda contact, seats: (
        f"POST /api/v1/contacts/{contact}/events",
        {"name": EVENT, "data": {"seats": seats}},
    ),
    sent=200,
    fault=_emailsendx_fault,
    requests=120,
    over_limit="Rate limit exceeded. Retry after {seconds} seconds.",
    standing=("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
)
ARSEL = Speaker(
    dialect="arsel",
    prefixes=("be_",),
    listing="/v1/events",
    lacking="/v1/events/eventName/signed_up",
    send=lambda _, seats: ("POST /v1/events/send", {"event": EVENT, "email": ADA, "data": {"seats": seats}}),
    sent=202,
    fault=_arsel_fault,
    requests=2,
    over_limit="Too many requests. Please retry after the period indicated in the retry-after header.",
    standing=("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)

SPEAKERS = (AUTOSEND, EMAILSENDX, ARSEL)
