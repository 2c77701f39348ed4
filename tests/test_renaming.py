"""Renaming definitions, which the store supports although no RPC does."""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Compatibility, Property, PropertyType, Schema
from registry.errors import (
    DefinitionAlreadyExists,
    DefinitionNotFound,
    EtagMismatch,
    IncompatibleSchema,
    InvalidName,
    TooManyRevisions,
)
from registry.storage import definition_store, revision_store
from registry.storage.definition_store import DefinitionChanges
from tests.support.messages import ORDER
from tests.support.revisions import every_field

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from registry.codegen.field_numbers import Field
    from registry.definitions.event_definitions import EventDefinition
    from server.storage.database import Database

# Names are checked without the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

SEEDS = int(os.environ.get("SIGNALBOX_RENAMING_SEEDS", "2"))

P, T = Property, PropertyType

TOTAL = Schema((P("total", T.NUMBER),))
NOTE = Schema((P("note", T.STRING),))


def created(connection: Connection, project: str, definition_id: str, name: str = ORDER) -> EventDefinition:
    return definition_store.create_definition(connection, project, definition_id, NewDefinition(name, TOTAL), 1)


def changed(connection: Connection, name_or_id: str, etag: str = "", **changes: Any) -> EventDefinition:
    asked = DefinitionChanges(**changes)
    _, after = definition_store.update_definition(connection, "p", name_or_id, asked, etag, f"former-{name_or_id}", 2)
    return after


async def test_a_renamed_definition_keeps_its_id_and_its_revisions(database: Database) -> None:
    def work(connection: Connection) -> None:
        made = created(connection, "p", "id-1")
        renamed = changed(connection, ORDER, made.etag, name="order_paid")
        assert renamed == replace(made, name="order_paid", revision=2, version=2, updated_at=2)
        assert definition_store.get_definition(connection, "p", "order_paid") == renamed
        assert definition_store.active_definitions(connection, "p") == [renamed]
        assert [each.number for each in revision_store.list_revisions(connection, "id-1", limit=None)] == [2, 1]
        assert {each.schema for each in revision_store.list_revisions(connection, "id-1", limit=None)} == {made.schema}
        with pytest.raises(DefinitionNotFound):
            definition_store.get_definition(connection, "p", ORDER)
        with pytest.raises(EtagMismatch):
            changed(connection, "order_paid", made.etag, name=ORDER)

    await database.write(work)


async def test_the_former_name_is_kept_by_a_deleted_definition(database: Database) -> None:
    def work(connection: Connection) -> None:
        made = created(connection, "p", "id-1")
        changed(connection, "id-1", name="order_paid")
        former = definition_store.get_definition(connection, "p", "former-id-1", deleted=True)
        assert (former.name, former.schema, former.deleted_at) == (ORDER, made.schema, 2)
        again = created(connection, "p", "id-2")
        assert definition_store.get_definition(connection, "p", ORDER) == again
        with pytest.raises(DefinitionAlreadyExists):
            definition_store.undelete_definition(connection, "p", former.id, "", 3)

    await database.write(work)


async def test_renaming_to_the_same_name_changes_nothing(database: Database) -> None:
    def work(connection: Connection) -> None:
        made = created(connection, "p", "id-1")
        assert changed(connection, ORDER, name=ORDER) == made
        assert definition_store.list_definitions(connection, "p", limit=9, show_deleted=True) == ([made], False)

    await database.write(work)


async def test_a_name_is_taken_by_a_live_definition_of_the_project_alone(database: Database) -> None:
    def work(connection: Connection) -> None:
        for project, definition_id, name in (("p", "1", "a"), ("p", "2", "b"), ("p", "3", "c"), ("q", "4", "d")):
            created(connection, project, definition_id, name)
        definition_store.delete_definition(connection, "p", "c", "", 1)
        with pytest.raises(DefinitionAlreadyExists):
            changed(connection, "a", name="b")
        assert changed(connection, "a", name="c").name == "c"
        assert changed(connection, "b", name="d").name == "d"
        assert changed(connection, "c", name="a").revision == 3

    await database.write(work)


@on_sqlite
@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, "signalbox:order"])
async def test_a_new_name_follows_the_rules_for_names(database: Database, name: str) -> None:
    def work(connection: Connection) -> None:
        created(connection, "p", "id-1")
        changed(connection, "id-1", name=name)

    with pytest.raises(InvalidName):
        await database.write(work)
    assert [each.name for each in await database.read(lambda c: definition_store.active_definitions(c, "p"))] == []


async def test_a_project_with_as_many_definitions_as_it_may_have_can_rename_one(database: Database) -> None:
    def work(connection: Connection) -> None:
        for number in range(definition_store.MAX_LIVE_DEFINITIONS):
            created(connection, "p", f"id-{number}", f"event_{number}")
        assert changed(connection, "event_7", name="seven").name == "seven"

    await database.write(work)


async def test_a_renaming_is_a_revision_and_only_its_schema_must_be_compatible(database: Database) -> None:
    def work(connection: Connection) -> None:
        definition_store.create_definition(connection, "p", "id", NewDefinition("a", TOTAL), 1)
        changed(connection, "a", schema=NOTE)
        changed(connection, "a", compatibility=Compatibility.FULL_TRANSITIVE)
        renamed = changed(connection, "a", name="b", schema=NOTE)
        assert (renamed.name, renamed.revision, renamed.schema) == ("b", 3, NOTE)
        with pytest.raises(IncompatibleSchema):
            changed(connection, "b", name="c", schema=TOTAL)

    await database.write(work)


async def test_name_and_schema_change_in_one_revision(database: Database) -> None:
    def work(connection: Connection) -> None:
        created(connection, "p", "id", "a")
        both = changed(connection, "a", name="b", schema=NOTE, description="Noted")
        assert (both.name, both.revision, both.version, both.schema) == ("b", 2, 2, NOTE)
        assert revision_store.get_revision(connection, "id", 2).schema == NOTE

    await database.write(work)


async def test_a_definition_with_as_many_revisions_as_it_may_have_is_not_renamed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definition_store, "MAX_REVISIONS", 1)

    def work(connection: Connection) -> None:
        created(connection, "p", "id", "a")
        changed(connection, "a", name="b")

    with pytest.raises(TooManyRevisions):
        await database.write(work)


# Field numbers


def made_under(connection: Connection, definition: EventDefinition) -> dict[str, int]:
    layout = revision_store.get_layout(connection, definition.id, definition.revision)
    return {field.property: field.number for field in layout.fields}


async def test_field_numbers_of_a_name_that_was_given_up_are_those_made_last(database: Database) -> None:
    def work(connection: Connection) -> None:
        first, second, third = (Schema((P(each, T.STRING),)) for each in ("first", "second", "third"))
        definition_store.create_definition(connection, "p", "1", NewDefinition("a", first), 1)
        definition_store.delete_definition(connection, "p", "1", "", 2)
        definition_store.create_definition(connection, "p", "2", NewDefinition("a", second), 3)
        definition_store.delete_definition(connection, "p", "2", "", 4)
        definition_store.undelete_definition(connection, "p", "1", "", 5)
        _, renamed = definition_store.update_definition(connection, "p", "1", DefinitionChanges(name="b"), "", "3", 6)
        assert made_under(connection, renamed) == {"first": 1}
        again = definition_store.create_definition(connection, "p", "4", NewDefinition("a", third), 7)
        assert made_under(connection, again)["third"] not in {1, 2}

    await database.write(work)


async def test_another_projects_name_has_numbers_of_its_own(database: Database) -> None:
    def work(connection: Connection) -> None:
        theirs = Schema(tuple(P(each, T.STRING) for each in ("first", "second", "third")))
        definition_store.create_definition(connection, "theirs", "1", NewDefinition("a", theirs), 1)
        mine = definition_store.create_definition(
            connection, "mine", "2", NewDefinition("a", Schema((P("third", T.STRING),))), 2
        )
        assert made_under(connection, mine) == {"third": 1}

    await database.write(work)


# Histories differ by what the registry decides: over PostgreSQL one shows that its statements do the same.
@pytest.mark.parametrize(
    ("backend", "seed"), [*(("sqlite", seed) for seed in range(SEEDS)), ("postgresql", 0)], indirect=["backend"]
)
async def test_a_field_number_keeps_its_meaning_under_a_name_in_all_its_definitions(
    database: Database, seed: int
) -> None:
    def work(connection: Connection) -> None:
        meanings: dict[tuple[str, str, int], Field] = {}
        history = History(connection, Random(seed))  # noqa: S311 - no secrets here
        for now in range(1, 120):
            history.go_on(now)
            for each in definition_store.active_definitions(connection, "p"):
                layout = revision_store.get_layout(connection, each.id, each.revision)
                for place, field in every_field(layout):
                    assert meanings.setdefault((each.name, place, field.number), field) == field
        assert len(meanings) > 50

    await database.write(work)


class History:
    """Definitions of few names that are created, changed, renamed, deleted and undeleted at random."""

    def __init__(self, connection: Connection, random: Random) -> None:
        self._connection = connection
        self._random = random

    def go_on(self, now: int) -> None:
        connection, random = self._connection, self._random
        known, _ = definition_store.list_definitions(connection, "p", limit=1_000, show_deleted=True)
        live = [each for each in known if each.deleted_at is None]
        free = sorted({"a", "b", "c"} - {each.name for each in live})
        deleted = [each for each in known if each.deleted_at is not None and each.name in free]
        if live and random.random() < 0.7:
            self._change(random.choice(live), free, now)
        elif deleted and random.random() < 0.4:
            definition_store.undelete_definition(connection, "p", random.choice(deleted).id, "", now)
        elif free:
            name = random.choice(free)
            definition_store.create_definition(connection, "p", f"made-{now}", NewDefinition(name, self._schema()), now)

    def _change(self, definition: EventDefinition, free: list[str], now: int) -> None:
        random = self._random
        if random.random() < 0.2:
            definition_store.delete_definition(self._connection, "p", definition.id, "", now)
            return
        changes = DefinitionChanges(
            name=random.choice(free) if free and random.random() < 0.5 else UNSET,
            schema=self._schema() if random.random() < 0.7 else UNSET,
        )
        definition_store.update_definition(self._connection, "p", definition.id, changes, "", f"former-{now}", now)

    def _schema(self) -> Schema:
        random = self._random
        inner = (P(random.choice(["x", "y"]), random.choice([T.STRING, T.ANY])),)
        kinds = (P("", T.STRING), P("", T.NUMBER), P("", T.OBJECT, properties=inner))
        return Schema(tuple(replace(random.choice(kinds), name=name) for name in random.sample(["x", "y", "z"], 2)))
