"""Dialects as packages: what each declares, and that nothing else of the server knows any of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from registry.errors import TooManyDefinitions
from server.bridge.dialect import DemoEvent
from server.bridge.dialects import DIALECTS
from server.bridge.errors import report_error
from server.bridge.routes import RouteTable
from server.errors import DefinitionInUse
from server.model import Dialect, NameCase, Scope, UndefinedEvents, UnknownContacts, UnknownIds
from server.services.api_keys import NATIVE_PREFIX
from server.status import CODES
from signalbox.v1 import projects_pb2 as pb

if TYPE_CHECKING:
    from server.bridge.dialect import RestDialect

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "server" / "bridge" / "dialects"
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name.value)


def test_every_dialect_of_the_contract_is_served() -> None:
    of_the_contract = {name.removeprefix("DIALECT_").lower() for name in pb.Dialect.keys()} - {"unspecified", "native"}  # noqa: SIM118
    assert {dialect.name.value for dialect in DIALECTS} == of_the_contract
    assert [dialect.name for dialect in DIALECTS] == [name for name in Dialect if name is not Dialect.NATIVE]


def test_every_package_is_listed() -> None:
    packages = {path.parent.name for path in PACKAGES.glob("*/__init__.py")}
    assert packages == {dialect.name.value for dialect in DIALECTS}


def test_nothing_outside_the_packages_names_a_dialect() -> None:
    """The enum, whose values are stored with keys, and the list of the packages are all there is."""
    names = re.compile("|".join(dialect.name.value for dialect in DIALECTS), re.IGNORECASE)
    allowed = {ROOT / "server" / "model.py", PACKAGES / "__init__.py"}
    code = [path for room in ("server", "automation", "registry") for path in (ROOT / room).rglob("*.py")]
    naming = {path for path in code if names.search(path.read_text())} - allowed
    assert {path for path in naming if PACKAGES not in path.parents} == set()


@each_dialect
def test_a_dialect_names_no_other(dialect: RestDialect) -> None:
    """Its only neighbours are what all dialects share, so that each can be removed alone."""
    others = "|".join(other.name.value for other in DIALECTS if other is not dialect)
    imports = re.compile(rf"dialects\.(?:{others})\b")
    for path in (PACKAGES / dialect.name.value).rglob("*.py"):
        assert not imports.search(path.read_text()), path


def test_a_key_prefix_identifies_one_dialect() -> None:
    prefixes = [(prefix, dialect.name) for dialect in DIALECTS for prefix in dialect.key_prefixes]
    prefixes.append((NATIVE_PREFIX, Dialect.NATIVE))
    for prefix, name in prefixes:
        assert {other for start, other in prefixes if start.startswith(prefix) or prefix.startswith(start)} == {name}


@each_dialect
def test_the_demo_call_is_a_route_for_sending_events(dialect: RestDialect) -> None:
    event = DemoEvent("order_completed", "ada@example.com", "0190b6d0-0000-7000-8000-000000000000", {"total": 5})
    call = dialect.demo_call(event)
    route, _ = RouteTable(dialect.routes).find("POST", call.path)
    assert route.scope in {Scope.EVENTS_WRITE, Scope.CONTACTS_WRITE}
    msgspec.convert(call.body, route.body)


# Errors


@each_dialect
def test_errors_are_reported_by_existing_reasons(dialect: RestDialect) -> None:
    groups = {route.error_group for route in dialect.routes}
    for key in dialect.error_table:
        group, _, reason = key.rpartition(": ")
        assert reason in CODES
        assert group in groups


def test_codes_about_events_are_those_of_autosend_alone() -> None:
    named = {
        dialect.name
        for dialect in DIALECTS
        for reported in dialect.error_table.values()
        if "EVENT_" in (reported.code or "")
    }
    assert named == {Dialect.AUTOSEND}


@pytest.mark.parametrize(
    ("name", "in_use", "too_many"),
    [
        (Dialect.AUTOSEND, (409, "EVENT_IN_USE"), (400, "MAX_EVENTS_REACHED")),
        (Dialect.OPENSEND, (409, "event_in_use"), (422, "max_events_reached")),
    ],
)
def test_dialects_keep_their_codes_about_definitions(
    name: Dialect, in_use: tuple[int, str], too_many: tuple[int, str]
) -> None:
    table = BY_NAME[name].error_table
    reports = [report_error(table, error) for error in (DefinitionInUse("ordered", 2), TooManyDefinitions(100))]
    assert [(reported.status, reported.code) for reported in reports] == [in_use, too_many]


# Documentation


UNDEFINED = {UndefinedEvents.REJECT: "rejected", UndefinedEvents.ACCEPT: "recorded"}
CONTACTS = {
    UnknownContacts.REJECT: "rejected",
    UnknownContacts.CREATE: "contact is created",
    UnknownContacts.CREATE_ON_MATCH: "contact is created if an automation matches",
}
IDS = {UnknownIds.REJECT: "rejected", UnknownIds.ACCEPT: "recorded without a contact"}
CASES = {NameCase.SENSITIVE: "exact", NameCase.INSENSITIVE: "any case"}


@each_dialect
def test_the_documentation_states_the_rules_of_a_dialect(dialect: RestDialect) -> None:
    rules = dialect.rules
    contacts = f"{CONTACTS[rules.unknown_contacts]} | {IDS[rules.unknown_ids]}"
    row = f"| {dialect.title} | {UNDEFINED[rules.undefined_events]} | {contacts} | {CASES[rules.name_case]} |"
    text = (ROOT / "docs" / "dialects.md").read_text()
    assert row in text
    assert f"\n## {dialect.title}" in text
