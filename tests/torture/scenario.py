"""What is sent, what it sets off, and an evaluator of the conditions that shares nothing with the product's.

Each condition stands beside a Python function that says when it is true. None of a function stands for CEL's error,
which makes a non-match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from signalbox.v1 import automations_pb2 as pb
from tests.support.messages import ADA, ANYTHING, BOB, ORDER, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from tests.torture.journal import StoredEvent

PAID = "paid"
EMAILS = (ADA, BOB, "eve@example.com")
SCHEMAS = {ORDER: schema(number="number", total="number", currency="string", first="boolean"), PAID: ANYTHING}


@dataclass(frozen=True)
class Expectation:
    """An automation that is active all the time, and when an event matches it."""

    name: str
    event_name: str
    condition: str
    matches: Callable[[Mapping[str, Any], str], bool | None]
    once: bool = False
    team: str = "core"

    @property
    def entry_rule(self) -> pb.EntryRule.ValueType:
        return pb.ENTRY_RULE_ONCE_PER_CONTACT if self.once else pb.ENTRY_RULE_EVERY_TIME


def _large(properties: Mapping[str, Any], _email: str) -> bool | None:
    return properties["total"] >= 500 if "total" in properties else None


def _first_in_dollars(properties: Mapping[str, Any], _email: str) -> bool | None:
    return properties.get("currency") == "USD" and properties.get("first") is True


def _other_currency(properties: Mapping[str, Any], _email: str) -> bool | None:
    return properties["currency"] not in ("EUR", "GBP") if "currency" in properties else None


def _large_or_first(properties: Mapping[str, Any], _email: str) -> bool | None:
    return properties.get("total", 0) > 900 or properties.get("first") is True


def _about_ada(_properties: Mapping[str, Any], email: str) -> bool | None:
    return email == ADA


def _pro(properties: Mapping[str, Any], _email: str) -> bool | None:
    return str(properties["plan"]).startswith("pro") if "plan" in properties else None


def _always(_properties: Mapping[str, Any], _email: str) -> bool | None:
    return True


EXPECTATIONS = (
    Expectation("every order", ORDER, "", _always, team="growth"),
    Expectation("large", ORDER, "properties.total >= 500", _large),
    Expectation("first, in dollars", ORDER, 'properties.currency == "USD" && properties.first', _first_in_dollars),
    Expectation("other currencies", ORDER, '!(properties.currency in ["EUR", "GBP"])', _other_currency),
    Expectation("large or first", ORDER, "properties.total > 900 || properties.first", _large_or_first),
    Expectation("every payment", PAID, "", _always),
    Expectation("of Ada", PAID, f'contact.email == "{ADA}"', _about_ada, team="growth"),
    Expectation("of a plan", PAID, 'properties.plan.startsWith("pro")', _pro),
    Expectation("the first of each contact", PAID, "", _always, once=True),
)


def expected_matches(events: Sequence[StoredEvent]) -> dict[int, set[str]]:
    """Return the names of the automations that each event must match, by position."""
    entered: set[tuple[str, str]] = set()
    expected: dict[int, set[str]] = {}
    for event in sorted(events, key=lambda event: event.position):
        expected[event.position] = set()
        for each in EXPECTATIONS:
            if each.event_name != event.name or not each.matches(event.properties, event.email):
                continue
            if each.once and (each.name, event.email) in entered:
                continue
            entered.add((each.name, event.email))
            expected[event.position].add(each.name)
    return expected


def draw_properties(random: Random, name: str, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw the properties of an event: as they are sent, and as they must be stored."""
    sent: dict[str, Any] = {"number": number}
    stored: dict[str, Any] = {"number": number}
    if name == PAID:
        if random.random() < 0.8:
            sent["plan"] = stored["plan"] = random.choice(("pro", "pro-annual", "free", "Pro"))
        return sent, stored
    if random.random() < 0.9:
        total = random.choice((0, 499.99, 500, 500.01, 900, 900.5, 1_000))
        sent["total"], stored["total"] = random.choice((total, str(total))), total
    if random.random() < 0.8:
        sent["currency"] = stored["currency"] = random.choice(("USD", "EUR", "GBP", "usd"))
    if random.random() < 0.7:
        first = random.random() < 0.5
        sent["first"], stored["first"] = random.choice((first, str(first), int(first))), first
    return sent, stored


def spoil(random: Random, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties of an order that every API must reject."""
    return {**properties, **random.choice(({"total": "a lot"}, {"first": "maybe"}, {"currency": ["USD"]}))}
