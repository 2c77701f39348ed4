"""The commands `definition` that validate and compare, against a real server."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from server.cli.main import run
from tests.support.command_line import serving
from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command_line import Server


@pytest.fixture(scope="module")
def signalbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("cli")) as server:
        server("definition", "create", "paid", "--property", "total:number", "--compatibility", "backward")
        server("definition", "update", "paid", "--property", "note:string")
        yield server


def test_a_check_exits_with_2_and_lists_what_breaks(signalbox: Server) -> None:
    refused = signalbox("definition", "check", "paid", "--property", "total:string", "--remove", "note")
    assert (refused.code, refused.err) == (2, "")
    assert re.search(r"^compatible +no$", refused.out, re.MULTILINE)
    assert re.search(r"^properties\.total +TYPE_CHANGED +2 +number +string +backward$", refused.out, re.MULTILINE)
    assert re.search(r"^properties\.note +PROPERTY_REMOVED +2 +string +", refused.out, re.MULTILINE)


def test_a_property_that_is_not_there_to_be_removed_is_no_verdict(signalbox: Server) -> None:
    wrong = signalbox("definition", "check", "paid", "--remove", "nope")
    assert (wrong.code, wrong.out) == (1, "")
    assert wrong.err.startswith('error: There is no property "nope" to remove')


def test_a_check_may_name_the_rule_and_prints_json(signalbox: Server) -> None:
    arguments = ("definition", "check", "paid", "--property", "more:string", "--json")
    allowed = signalbox(*arguments)
    assert (allowed.code, allowed.json["compatible"], allowed.json["changed"]) == (0, True, True)
    refused = signalbox(*arguments, "--compatibility", "full")
    assert refused.code == 2
    (found,) = refused.json["incompatibilities"]
    assert (found["path"], found["kind"], found["direction"], found["revision"]) == (
        "properties.more",
        "PROPERTY_ADDED",
        "DIRECTION_FORWARD",
        2,
    )


def test_a_refused_update_is_one_line_and_a_line_for_each_incompatibility(signalbox: Server) -> None:
    refused = signalbox("definition", "update", "paid", "--property", "total:string", "--remove", "note")
    assert (refused.code, refused.out) == (1, "")
    first, *rest = refused.err.splitlines()
    assert first.startswith(
        'error: The schema breaks the compatibility rule BACKWARD of event "paid" in 2 places, first at'
        " properties.total: "
    )
    assert [line.split(":")[0] for line in rest] == ["  properties.total", "  properties.note"]
    assert '"number"' in rest[0]
    assert '"string"' in rest[0]


def test_a_definition_is_rolled_back_and_validate_only_changes_nothing(signalbox: Server) -> None:
    created = signalbox("definition", "create", "cart", "--property", "total:number", "--json").json
    tried = signalbox("definition", "create", "trial", "--validate-only", "--json")
    assert (tried.code, signalbox("definition", "show", "trial").code) == (0, 1)
    tried = signalbox("definition", "update", "cart", "--property", "note:string", "--validate-only", "--json")
    assert tried.json["revision"] == 2
    assert signalbox("definition", "show", "cart", "--json").json == created
    signalbox("definition", "update", "cart", "--property", "note:string")
    tried = signalbox("definition", "rollback", "cart", "1", "--validate-only", "--json")
    assert tried.json["revision"] == 3
    stale = signalbox("definition", "rollback", "cart", "1", "--etag", created["etag"])
    assert (stale.code, stale.out) == (1, "")
    assert 'its etag is "2"' in stale.err
    rolled = signalbox("definition", "rollback", "cart", "1", "--etag", "2", "--json").json
    assert (rolled["revision"], rolled["schema"]) == (3, created["schema"])
    missing = signalbox("definition", "rollback", "cart", "9")
    assert (missing.code, missing.err) == (1, "error: Revision 9 does not exist\n  number\n")


def test_a_payload_is_validated_by_a_definition_and_by_a_file(signalbox: Server) -> None:
    valid = signalbox("definition", "validate", "paid", "--properties", '{"total":"5"}')
    assert (valid.code, valid.err) == (0, "")
    assert re.search(r"^valid +yes$", valid.out, re.MULTILINE)
    assert re.search(r'^properties +{"total": 5}$', valid.out, re.MULTILINE)
    assert 'properties.total  "5" -> 5 (converted)' in valid.out
    refused = signalbox("definition", "validate", "paid", "--revision", "1", "--properties", '{"note":"x"}')
    assert refused.code == 2
    assert re.search(r"^valid +no$", refused.out, re.MULTILINE)
    assert 'properties.note: Property "note" is not declared\n' in refused.out
    schema = json.dumps({"properties": [{"name": "a", "type": "PROPERTY_TYPE_BOOLEAN", "required": True}]})
    arguments = ("definition", "validate", "--schema", "-", "--json")
    assert signalbox(*arguments, "--properties", '{"a":1}', stdin=schema).json["properties"] == {"a": True}
    empty = signalbox(*arguments, stdin=schema)
    assert (empty.code, empty.json["violations"][0]["path"]) == (2, "properties.a")


def test_dependents_are_the_revisions_that_were_seen(signalbox: Server) -> None:
    signalbox("definition", "create", "seen")
    for _ in range(2):
        signalbox("event", "send", "seen", "--email", ADA)
    signalbox("definition", "update", "seen", "--property", "a:string")
    signalbox("event", "send", "seen", "--email", ADA)
    listed = signalbox("definition", "dependents", "seen").out
    assert re.fullmatch(r"REVISION +EVENTS +LAST SEEN\n2 +1 +20\S+Z\n1 +2 +20\S+Z\n", listed)
    traffic = [each["traffic"] for each in signalbox("definition", "dependents", "seen", "--json").json]
    assert [(each["revision"], each["event_count"]) for each in traffic] == [(2, 1), (1, 2)]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("definition", "check", "paid"), 1, "Give the schema with --schema"),
        (("definition", "check", "paid", "--remvoe", "note"), 1, "No such option '--remvoe'"),
        (("definition", "validate"), 1, "Name a definition, or give --schema"),
        (("definition", "validate", "paid", "--schema", __file__), 1, "Name a definition, or give --schema"),
        (("definition", "validate", "--schema", __file__, "--revision", "1"), 1, "leave it out with --schema"),
        (("definition", "validate", "paid", "--properties", "[1]"), 1, "not a JSON object"),
        (("definition", "rollback", "paid", "0"), 2, "0 is out of range: it must be from 1 to"),
        (("definition", "rollback", "paid"), 2, "Missing argument 'REVISION'"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line_and_is_no_verdict(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, told: str
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .*\n", err)
    assert told in err
