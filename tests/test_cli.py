"""The command line against a real server, both as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
import pytest

from server.auth.admin_key import read_or_make
from server.cli.arguments.options import Connection
from server.cli.client.session import Session
from server.cli.main import cli, run
from server.services.demo import SECRET
from server.storage.migrations import head
from signalbox.v1 import event_ingest_pb2 as pb
from tests.support import curl
from tests.support.command_line import ENVIRONMENT, Result, command, read_line, serving
from tests.support.messages import ADA, ORDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command_line import Server

PROPERTIES = '{"order_total":"129.99","currency":"USD","is_first_purchase":"true"}'
NO_SERVER = "127.0.0.1:1"


def _logged(folder: Path) -> list[tuple[str, str | None]]:
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return [(line["event"], line.get("signal")) for line in lines]


@pytest.fixture(scope="session")
def signalbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("cli")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SIGNALBOX_"):
            monkeypatch.delenv(name)


def test_the_help_names_every_command_without_loading_grpc() -> None:
    script = "import sys; from server.cli.main import run; run(['--help']); assert 'grpc' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    for name in ("serve", "check", "project", "key", "definition", "event", "contact", "automation", "run", "migrate"):
        assert f"\n  {name} " in shown
    assert "SIGNALBOX_SERVER" in shown


def test_a_server_loads_no_library_that_it_may_never_need() -> None:
    script = "import sys, server.cli.commands.serve, server.app; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert not {"rich", "pygments", "aiohttp", "alembic", "asyncpg", "opentelemetry"} & set(shown.split())


def commands_below(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield found
        if isinstance(found, click.Group):
            yield from commands_below(found, context)


def test_no_two_options_of_a_command_share_a_flag_a_variable_or_a_value() -> None:
    for each in commands_below(cli, click.Context(cli)):
        flags = [flag for option in each.params for flag in (*option.opts, *option.secondary_opts)]
        variables = [option.envvar for option in each.params if option.envvar]
        for names in ([option.name for option in each.params], flags, variables):
            assert len(set(names)) == len(names), (each.name, names)


def test_what_dev_prints_works_as_it_stands(signalbox: Server) -> None:
    commands = re.findall(r"^  (\S(?:.*\\\n)*.*)$", signalbox.dev_output, re.MULTILINE)
    assert len(commands) == 7
    sent = [asyncio.run(curl.run(each)) for each in commands if each.startswith("curl ")]
    assert [each.status_code for each in sent] == [201, 202, 200, 202]
    for each in commands[:3]:
        done = subprocess.run(each, shell=True, check=False, capture_output=True, text=True, env=ENVIRONMENT)  # noqa: S602
        assert done.returncode == 0, (each, done.stderr)
        assert "129.99" in done.stdout


def test_a_command_with_the_key_of_a_project_makes_no_call_that_is_refused(signalbox: Server) -> None:
    log = signalbox.folder / "log"
    before = len(log.read_text())
    assert signalbox("event", "list", "--key", SECRET).code == 0
    assert "PERMISSION_DENIED" not in log.read_text()[before:]


def test_the_admin_key_is_in_a_file_that_only_its_owner_can_read(signalbox: Server) -> None:
    file = signalbox.folder / "signalbox.db.admin-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_event_is_shown_with_what_coercion_changed(signalbox: Server) -> None:
    sent = signalbox("event", "send", ORDER, "--email", ADA, "--properties", PROPERTIES)
    assert (sent.code, sent.err) == (0, "")
    assert re.search(r"^position +[1-9]", sent.out, re.MULTILINE)
    assert 'properties  {"currency": "USD", "is_first_purchase": true, "order_total": 129.99}' in sent.out
    assert 'properties.order_total  "129.99" -> 129.99 (converted)' in sent.out
    assert 'properties.is_first_purchase  "true" -> true (converted)' in sent.out


def test_json_has_the_names_of_the_contract_and_positions_as_numbers(signalbox: Server) -> None:
    receipt = signalbox("event", "send", ORDER, "--email", ADA, "--properties", PROPERTIES, "--json").json
    event = receipt["event"]
    assert event["properties"] == {"order_total": 129.99, "currency": "USD", "is_first_purchase": True}
    assert isinstance(event["position"], int)
    assert (receipt["duplicate"], receipt["coercion_count"], event["revision"]) == (False, 2, 1)
    assert signalbox("event", "show", event["id"], "--json").json == event


def test_a_repeated_idempotency_key_is_reported(signalbox: Server) -> None:
    arguments = ("event", "send", ORDER, "--email", ADA, "--idempotency-key", "once")
    first, second = signalbox(*arguments), signalbox(*arguments)
    assert not first.out.startswith("duplicate")
    assert second.out.startswith("duplicate")
    assert second.out.endswith(first.out)


def test_a_list_is_one_array_and_flags_may_stand_before_the_command_or_after_it(signalbox: Server) -> None:
    signalbox("event", "send", ORDER, "--email", ADA, "--occurred-at", "2001-02-03T04:05:06Z")
    filters = ("--event", ORDER, "--email", ADA, "--occurred-until", "2001-02-04T00:00:00Z")
    before = signalbox("--json", "--key", SECRET, "event", "list", *filters).json
    after = signalbox("--key", "wrong", "event", "list", *filters, "--json", "--key", SECRET).json
    assert [event["occurred_at"] for event in before] == ["2001-02-03T04:05:06Z"]
    assert after == before


def test_a_limit_reads_over_pages_and_says_that_there_is_more(signalbox: Server) -> None:
    for number in range(2):
        signalbox("contact", "upsert", f"limit{number}@example.com")
    listed = signalbox("contact", "list", "--search", "limit", "--limit", "1", "--json")
    assert [contact["email"] for contact in listed.json] == ["limit1@example.com"]
    assert "raise --limit to see more" in listed.err


def test_a_refused_event_is_one_line_and_a_line_for_each_field(signalbox: Server) -> None:
    refused = signalbox("event", "send", ORDER, "--email", ADA, "--properties", '{"order_total":"abc","nope":1}')
    assert (refused.code, refused.out) == (1, "")
    first, *rest = refused.err.splitlines()
    assert first.startswith("error: The payload has 2 violations")
    assert {line.split(":")[0] for line in rest} == {"  properties.order_total", "  properties.nope"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("event", "send", "nope", "--email", ADA), 'error: Event "nope" is not defined in this project\n'),
        (("event", "list", "--key", "sb_wrong"), "error: the key is unknown to the server, or revoked\n"),
        (("project", "list", "--key", SECRET), "error: Only the admin key may call this RPC\n"),
        (("event", "list", "--project", "none"), 'error: There is no project "none"\n'),
        (("event", "list", "--project", "kein größeres"), 'error: There is no project "kein größeres"\n'),
        (
            ("event", "list", "--server", NO_SERVER),
            f"error: no Signalbox server answers at {NO_SERVER} (start one with: signalbox serve)\n",
        ),
        (
            ("check", "--server", NO_SERVER),
            f"error: no Signalbox server answers at {NO_SERVER} (start one with: signalbox serve)\n",
        ),
    ],
)
def test_a_failure_is_oneread_line(signalbox: Server, arguments: tuple[str, ...], line: str) -> None:
    assert signalbox(*arguments) == Result(1, "", line)


def test_the_admin_key_of_another_database_is_distinguished_from_a_revoked_key(
    signalbox: Server, tmp_path: Path
) -> None:
    read_or_make(tmp_path / "x.db.admin-key")
    refused = signalbox("project", "list", "--database", f"sqlite:///{tmp_path}/x.db")
    assert f"does not know the admin key in {tmp_path}/x.db.admin-key" in refused.err
    refused = signalbox("event", "list", "--key", "sb_nobody")
    assert refused.err == "error: the key is unknown to the server, or revoked\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("event", "send", "x", "--email", "a@b.c", "--properties", '{"a":\n 1 b}'), "at line 2, column 4"),
        (("event", "send", "x", "--email", "a@b.c", "--properties", '{"a": NaN}'), "NaN is not a JSON value"),
        (("event", "send", "x", "--email", "a@b.c", "--properties", "[1]"), "not a JSON object"),
        (("event", "send", "x", "--email", "a@b.c", "--properties", '{"a":' * 2000), "not JSON"),
        (("event", "send", "x", "--email", "a@b.c", "--properties", '{"a": 1%s}' % ("0" * 400)), "beyond the range"),
        (("event", "send", "x", "--email", "a@b.c", "--properties", '{"a": "\\ud800"}'), "surrogate"),
        (
            ("event", "send", "x", "--email", "a@b.c", "--properties", '{"a":1,"a":2}'),
            '"a" is given twice in one object',
        ),
        (
            ("event", "send", "x", "--email", "a@b.c", "--properties", '{"o":[{"a":1,"\\u0061":2}]}'),
            '"a" is given twice',
        ),
        (("contact", "upsert", ADA, "--properties", '{"a":{"b":1,"b":1}}'), '"b" is given twice in one object'),
        (("automation", "create", "x", "--event", "y", "--attributes", '{"a":1,"a":2}'), '"a" is given twice in one'),
        (("automation", "create", "x", "--event", "y", "--label", "a=1", "--label", "a=2"), 'label "a" is given twice'),
        (("match", "watch", "--label", "a=1", "--label", "a=2"), 'label "a" is given twice'),
        (
            ("definition", "update", "x", "--property", "a:string", "--property", "a:date"),
            'property "a" is given twice',
        ),
        (("event", "send", "x"), "Give --email or --contact-id"),
        (("event", "send"), "Missing argument 'NAME'"),
        (("event", "send", "--from", "/no/such/file"), "No such file"),
        (("event", "list", "--since", "yesterday"), "not an RFC 3339 date-time"),
        (("event", "list", "--nonsense"), "No such option"),
        (("event", "send", "x", "--from", __file__, "--matches"), "leave out the other options"),
        (("automation", "create", "x"), "Missing option '--event'"),
        (("automation", "create", "x", "--event", "y", "--label", "team"), "is not KEY=VALUE"),
        (("automation", "create", "x", "--event", "y", "--entry", "twice"), "'twice' is not one of"),
        (("run", "await", "x", "--event", "y", "--for", "soon"), "is not a duration such as 90s"),
        (("run", "list", "--status", "gone"), "'gone' is not one of"),
        (("run", "list", "--email", ADA, "--contact-id", "x"), "not both"),
        (("run", "list", "--automation", "welcome"), "signalbox automation list shows the IDs"),
        (("match", "watch", "--automation", ""), '"" is not the ID of an automation'),
        (("subscription", "create", "x", "--automation", "welcome"), '"welcome" is not the ID of an automation'),
        (("event", "list", "--since", "2016-12-31T23:59:60Z"), "is not a day and time of the calendar"),
        (("event", "list", "--server", "http://localhost:1"), "is not HOST:PORT"),
        (("event", "list", "--key", "a b"), "printable ASCII"),
        (("nonsense",), "No such command"),
        (("definition", "create", "x", "--property", "total:money"), "is not NAME:TYPE"),
        (("definition", "create", "x", "--property", "tags:array<thing>"), "is not NAME:TYPE"),
        (
            ("definition", "create", "x", "--property", "total:anything"),
            "TYPE is one of string, number, boolean, date,",
        ),
        (("serve", "--dev", "--grpc", "0.0.0.0:0"), "not on 0.0.0.0"),
        (("serve", "--tls-cert", __file__), "both --tls-cert and --tls-key"),
        (("serve", "--match-retention", "a month"), "is not a duration such as 90s"),
        (("serve", "--match-retention", "0d"), "would keep nothing"),
        (("event", "send", "x", "--from", __file__, "--email", "a@b.c"), "leave out the other options"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .*\n", err)
    assert told in err


def test_tls_files_that_do_not_belong_together_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("serve", "--tls-cert", __file__, "--tls-key", __file__)) == 1
    assert "are not a certificate and its private key" in capsys.readouterr().err


def test_a_file_is_sent_and_each_refused_line_reported(signalbox: Server, tmp_path: Path) -> None:
    lines = [json.dumps({"email": ADA, "properties": {"order_total": number}}) for number in range(1_200)]
    lines[2] = "{broken"
    lines[3] = ""
    lines[700] = json.dumps({"email": ADA, "properties": {"order_total": "much"}})
    lines[701] = json.dumps({"name": "nope", "email": ADA})
    lines[702] = json.dumps({"properties": {}})
    lines[703] = json.dumps({"email": ADA, "colour": "red"})
    lines[704] = json.dumps({"email": ADA, "properties": {"deep": json.loads("[" * 90 + "]" * 90)}})
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(lines))
    sent = signalbox("event", "send", ORDER, "--from", str(file))
    assert sent.code == 1
    assert re.fullmatch(r"sent 1,199 events in [0-9.]+ s: 1,193 accepted, 6 rejected\n", sent.out)
    reasons = dict(line.split(": ", 1) for line in sent.err.splitlines())
    assert set(reasons) == {"line 3", "line 701", "line 702", "line 703", "line 704", "line 705"}
    assert reasons["line 701"].startswith("properties.order_total: ")
    assert reasons["line 702"] == 'Event "nope" is not defined in this project'


def test_a_pipe_is_sent_with_one_json_line_for_each_event(signalbox: Server) -> None:
    stdin = f'{{"email":"{ADA}","properties":{{"order_total":"5"}}}}\n{{"name":"nope","email":"{ADA}"}}'
    sent = signalbox("event", "send", ORDER, "--from", "-", "--json", stdin=stdin)
    assert sent.code == 1
    results = {each["line"]: each for each in sent.json_lines}
    assert results[1]["receipt"]["event"]["properties"] == {"order_total": 5}
    assert results[2]["error"]["reason"] == "DEFINITION_NOT_FOUND"
    assert "1 accepted, 1 rejected" in sent.err


def test_a_reader_that_goes_away_is_no_error(signalbox: Server) -> None:
    listing = signalbox.begin("event", "tail", "--from-position", "1", "--json")
    assert json.loads(read_line(listing.stdout))["position"] == 1
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.close()
    assert listing.wait(timeout=20) == 1
    with listing.stderr:
        assert listing.stderr.read() == ""


def test_tail_follows_a_log_over_a_clean_restart_of_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server("event", "send", ORDER, "--email", ADA)
        following = server.begin("event", "tail", "--from-position", "1", "--json")
        assert json.loads(read_line(following.stdout))["position"] == 1
        server("event", "send", ORDER, "--email", ADA)
        assert json.loads(read_line(following.stdout))["position"] == 2
        assert server.stop() == 0
        assert _logged(tmp_path) == [("started", None), ("stopping", "SIGTERM"), ("stopped", None)]
        assert "waiting" in read_line(following.stderr)
    with serving(tmp_path, server.address) as server:
        assert "is back" in read_line(following.stderr)
        server("event", "send", ORDER, "--email", ADA)
        assert json.loads(read_line(following.stdout))["position"] == 3
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=20)
    assert following.returncode == 130
    assert out == ""
    assert err in ("", f"{server.address} went away; waiting for it\n")


async def test_an_interrupt_counts_although_the_call_under_way_succeeds() -> None:
    """Grpcio's client gives the answer of a call that ends in the moment in which it is cancelled."""

    async def answer(_request: object, **_options: object) -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return "answer"

    method: Any = answer
    session = Session(Connection("127.0.0.1:1", "key", "", "", 5, json=False))
    calling = asyncio.create_task(session.bare_call(method, pb.ListEventsRequest()))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await session.channel.close()


def test_watch_follows_matches_over_a_restart_and_ends_at_its_limit(tmp_path: Path) -> None:
    def positions(result: Result) -> list[int]:
        return [each["match"]["position"] for each in result.json_lines]

    with serving(tmp_path) as server:
        (welcome,) = server("automation", "list", "--json").json
        server("automation", "pause", welcome["id"])
        made = server("automation", "create", "Thanks", "--event", ORDER, "--label=team=shop", "--activate", "--json")
        following = server.begin("match", "watch", "--from", "earliest", "--limit", "3", "--json")
        for position in (1, 2):
            server("event", "send", ORDER, "--email", ADA, "--properties", PROPERTIES)
            line = json.loads(read_line(following.stdout))
            assert line["match"]["position"] == position
        assert line["match"]["event"]["properties"]["order_total"] == 129.99
        assert server.stop() == 0
        assert "waiting" in read_line(following.stderr)
    with serving(tmp_path, server.address) as server:
        assert "is back" in read_line(following.stderr)
        server("event", "send", ORDER, "--email", ADA)
        out, err = following.communicate(timeout=20)
        assert (json.loads(out)["match"]["position"], err, following.returncode) == (3, "", 0)
        watch = ("match", "watch", "--json", "--limit")
        assert positions(server(*watch, "1", "--cursor", line["cursor"])) == [3]
        assert positions(server(*watch, "2", "--from", "2", "--label", "team=shop", "--event", ORDER)) == [2, 3]
        assert positions(server(*watch, "1", "--from", "2020-01-01T00:00:00Z", "--automation", made.json["id"])) == [1]
        plain = server("match", "watch", "--from", "3", "--limit", "1")
        assert plain.out.split()[0] == "3"
        assert {"started", "Thanks", ORDER, ADA} <= set(plain.out.split())
        assert server("match", "watch", "--cursor", "x").err.startswith("error: The cursor is not valid")
        past = server("match", "watch", "--from", "9").err
        assert past.startswith("error: The requested start position 8 is past the newest match")
        for wrong in (("--from", "0"), ("--from", "soon"), ("--from", "1", "--cursor", "x")):
            assert server("match", "watch", *wrong).code == 2


def test_the_only_project_is_meant_and_several_must_be_named(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server("key", "list", "--json").json[0]["description"] == "demo"
        assert server("project", "create", "shop", "--undefined-events", "accept").code == 0
        refused = server("event", "list")
        assert refused == Result(1, "", "error: there are several projects; name one with --project: shop, demo\n")
        assert server("event", "list", "--project", "shop", "--json").json == []
        changed = server("project", "update", "shop", "--name", "store", "--name-case", "insensitive", "--json").json
        assert changed["name"] == "store"
        assert changed["undefined_events"] == "UNDEFINED_EVENTS_ACCEPT"


def test_keys_are_created_used_and_revoked(signalbox: Server) -> None:
    arguments = ("key", "create", "--project", "demo", "--dialect", "autosend", "--scope", "events:read", "--json")
    created = signalbox(*arguments).json
    assert created["secret"].startswith("AS_")
    assert signalbox("event", "list", "--key", created["secret"]).code == 0
    refused = signalbox("contact", "list", "--key", created["secret"])
    assert refused.err == 'error: The API key lacks the scope "contacts:read"\n'
    revoked = signalbox("key", "revoke", created["api_key"]["id"], "--yes")
    assert re.search(r"^revoked +20", revoked.out, re.MULTILINE)
    assert signalbox("event", "list", "--key", created["secret"]).code == 1


def test_definitions_are_created_changed_deleted_and_brought_back(signalbox: Server) -> None:
    created = signalbox(
        "definition", "create", "cart", "--property", "total:number!", "--property", "tags:array<string>", "--json"
    ).json
    total, tags = created["schema"]["properties"]
    assert (total["name"], total["type"], total["required"]) == ("total", "PROPERTY_TYPE_NUMBER", True)
    assert (tags["type"], tags["item_type"]) == ("PROPERTY_TYPE_ARRAY", "PROPERTY_TYPE_STRING")
    changed = signalbox(
        "definition", "update", "cart", "--property", "at:any!", "--remove", "tags", "--unknown", "drop"
    )
    assert re.search(r"^total +number!$", changed.out, re.MULTILINE)
    assert re.search(r"^at +any!$", changed.out, re.MULTILINE)
    assert "tags" not in changed.out
    assert [each["number"] for each in signalbox("definition", "revisions", "cart", "--json").json] == [2, 1]
    assert signalbox("definition", "revisions", "cart", "--number", "1", "--json").json["schema"] == created["schema"]
    assert signalbox("definition", "delete", "cart", "--yes").code == 0
    assert signalbox("definition", "undelete", created["id"]).code == 0
    assert re.search("^cart ", signalbox("definition", "list", "--search", "CAR").out, re.MULTILINE)


def test_a_nested_schema_comes_from_a_file(signalbox: Server) -> None:
    lines = {
        "name": "lines",
        "type": "PROPERTY_TYPE_ARRAY",
        "item_type": "PROPERTY_TYPE_OBJECT",
        "properties": [{"name": "sku", "type": "PROPERTY_TYPE_STRING"}],
    }
    created = signalbox("definition", "create", "nested", "--schema", "-", stdin=json.dumps({"properties": [lines]}))
    assert re.search(r"^lines\[\]\.sku +string$", created.out, re.MULTILINE)
    broken = signalbox("definition", "update", "nested", "--schema", "-", stdin='{"properties": 1}')
    assert broken.code == 2
    assert "is not a schema" in broken.err


def test_contacts_are_kept_by_address_and_id(signalbox: Server) -> None:
    made = signalbox("contact", "upsert", "Bob@Example.com", "--properties", '{"plan":"pro"}', "--json").json
    assert made["created"]
    contact = signalbox("contact", "show", "bob@example.com", "--json").json
    assert contact["properties"] == {"plan": "pro"}
    assert signalbox("contact", "show", contact["id"], "--json").json == contact
    assert signalbox("contact", "delete", contact["id"], "--yes").code == 0
    assert signalbox("contact", "show", "bob@example.com").code == 1


def test_check_reports_the_state_of_each_service(signalbox: Server) -> None:
    checked = signalbox("check", "--json")
    assert checked.code == 0
    assert checked.json["status"] == "SERVING"
    assert checked.json["services"]["signalbox.v1.EventIngest"] == "SERVING"


def test_a_second_server_on_the_database_is_reported_in_one_line(signalbox: Server) -> None:
    second = command("serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--database", signalbox.database)
    assert (second.code, second.out) == (1, "")
    assert re.fullmatch(r"error: another server or process holds sqlite:///\S+: stop it.*\n", second.err)


def test_a_port_in_use_is_reported_in_one_line(signalbox: Server, tmp_path: Path) -> None:
    second = command("serve", "--grpc", signalbox.address, "--database", f"sqlite:///{tmp_path}/x.db")
    assert second.code == 1
    assert re.fullmatch(rf"error: Cannot listen on {signalbox.address}.*\n", second.err)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://u:hunter2@host/name", r"mysql://u:\*\*\*@host/name\" is not a database URL"),
        ("postgresql://u:hunter2@127.0.0.1:1/name", r"postgresql://u:\*\*\*@127.0.0.1:1/name cannot be used: "),
        ("sqlite:////no/such/folder/x.db", "No such file or directory"),
    ],
)
def test_a_database_that_cannot_be_opened_is_reported_without_its_password(url: str, told: str) -> None:
    refused = command("serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--database", url)
    assert (refused.code, refused.out) == (1, "")
    assert re.fullmatch(rf"error: .*{told}.*\n", refused.err)
    assert "hunter2" not in refused.err


def test_migrate_makes_a_database_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    assert command("migrate", "--database", url).out.startswith(f"{url} is now at {head()}")
    assert command("migrate", "--database", url, "--json").json["changed"] is False


def test_automations_are_created_changed_and_deleted(signalbox: Server) -> None:
    arguments = ("--event", "signup", "--entry", "once-per-contact", "--label", "team=growth", "--label", "tier=1")
    created = signalbox("automation", "create", "Welcome", *arguments, "--attributes", '{"b":1,"a":2}', "--json").json
    assert (created["state"], created["entry_rule"]) == ("AUTOMATION_STATE_DRAFT", "ENTRY_RULE_ONCE_PER_CONTACT")
    assert list(created["attributes"].items()) == [("a", 2), ("b", 1)]
    assert signalbox("automation", "show", created["id"], "--json").json == created
    active = signalbox("automation", "activate", created["id"])
    assert re.search(r"^state +active$", active.out, re.MULTILINE)
    assert re.search(r"^entry +once-per-contact$", active.out, re.MULTILINE)
    assert re.search(r"^labels +team=growth tier=1$", active.out, re.MULTILINE)
    changed = signalbox("automation", "update", created["id"], "--name", "Hello", "--label", "tier=", "--json").json
    assert (changed["name"], changed["labels"]) == ("Hello", {"team": "growth"})
    listed = signalbox("automation", "list", "--event", "signup", "--state", "active", "--label", "team=growth")
    assert re.search(rf"^{created['id']}  Hello +active +signup", listed.out, re.MULTILINE)
    refused = signalbox("automation", "delete", created["id"], "--yes")
    assert (refused.code, refused.err) == (1, "error: The automation is active; pause it before deleting it\n")
    outdated = signalbox("automation", "pause", created["id"], "--etag", created["etag"])
    assert outdated.code == 1
    assert re.search(r"^state +paused$", signalbox("automation", "pause", created["id"]).out, re.MULTILINE)
    deleted = signalbox("automation", "delete", created["id"], "--yes")
    assert re.search(r"^cancelled runs +0$", deleted.out, re.MULTILINE)
    assert signalbox("automation", "show", created["id"]).code == 1


def test_a_run_is_started_parked_resumed_and_ended(signalbox: Server) -> None:
    signalbox("definition", "create", "cart_filled")
    signalbox("definition", "create", "cart_paid")
    made = signalbox("automation", "create", "Carts", "--event", "cart_filled", "--activate", "--json").json
    plain = signalbox("event", "send", "cart_filled", "--email", ADA)
    assert re.search(r"^matches 1 automation$", plain.out, re.MULTILINE)
    sent = signalbox("event", "send", "cart_filled", "--email", ADA, "--matches")
    told = re.search(r"^match [0-9]+  started run (\S+) of Carts$", sent.out, re.MULTILINE)
    assert told
    run = told[1]
    shown = signalbox("run", "await", run, "--event", "cart_paid", "--for", "10m", "--attributes", '{"step":1}')
    assert re.search(r"^waits for +cart_paid$", shown.out, re.MULTILINE)
    assert re.search(r"^times out +20", shown.out, re.MULTILINE)
    waiting = signalbox("run", "list", "--status", "waiting", "--automation", made["id"], "--email", ADA)
    assert re.search(rf"^{run}  waiting .* cart_paid$", waiting.out, re.MULTILINE)
    resumed = signalbox("event", "send", "cart_paid", "--email", ADA, "--matches", "--json").json
    assert [each["kind"] for each in resumed["matches"]] == ["KIND_RESUMED"]
    assert signalbox("run", "show", run, "--json").json["match_id"] == resumed["matches"][0]["id"]
    stale = signalbox("run", "complete", run, "--match", "nothing")
    assert stale.err.startswith("error: The run has moved on: its newest match is ")
    ended = signalbox("run", "complete", run, "--outcome", "skipped", "--reason", "unsubscribed")
    assert re.search(r"^status +skipped$", ended.out, re.MULTILINE)
    refused = signalbox("run", "cancel", run)
    assert (refused.code, refused.err) == (1, "error: The run has already ended; it is skipped\n")
    (other,) = signalbox("run", "list", "--automation", made["id"], "--status", "queued", "--json").json
    cancelled = signalbox("run", "cancel", other["id"], "--reason", "no need", "--json").json
    assert (cancelled["status"], cancelled["reason"]) == ("RUN_STATUS_CANCELLED", "no need")


def test_subscriptions_are_created_consumed_and_deleted(tmp_path: Path) -> None:
    with serving(tmp_path) as signalbox:
        signalbox("automation", "create", "Thanks", "--event", ORDER, "--activate")
        arguments = ("--event", ORDER, "--order", "contact", "--ack-deadline", "1m", "--max-attempts", "3", "--json")
        made = signalbox("subscription", "create", "engine", *arguments, "--first-delay", "2s").json
        assert (made["order"], made["ack_deadline"], made["max_attempts"]) == ("DELIVERY_ORDER_CONTACT", "60s", 3)
        assert made["backoff"]["initial_delay"] == "2s"
        for _ in range(3):
            signalbox("event", "send", ORDER, "--email", ADA)
        kept = signalbox("match", "consume", "engine", "--no-ack", "--limit", "1")
        assert (kept.code, kept.out.split()[:2]) == (0, ["1/3", "1"])
        taken = signalbox("match", "consume", "engine", "--limit", "1", "--json").json_lines
        assert [(each["match"]["position"], each["attempt"]) for each in taken] == [(1, 2)]
        shown = signalbox("subscription", "show", "engine")
        assert re.search(r"^ack floor +1 of 3, read to", shown.out, re.MULTILINE)
        moved = signalbox("subscription", "seek", made["id"], "earliest", "--json").json
        assert moved["stats"]["floor_position"] == 0
        changed = signalbox("subscription", "update", "engine", "--name", "motor", "--ack-deadline", "2m")
        assert re.search(r"^ack deadline +120s$", changed.out, re.MULTILINE)
        assert re.search(rf"^{made['id']} .* motor$", signalbox("subscription", "list").out, re.MULTILINE)
        assert signalbox("subscription", "parked", "motor", "--json").json == []
        assert signalbox("subscription", "replay", "motor", "--all", "--dry-run").out == "0 would be replayed\n"
        assert signalbox("subscription", "discard", "motor", "--all", "--yes").out == "0 discarded\n"
        assert signalbox("subscription", "discard", "motor", "--yes").code == 1
        assert signalbox("subscription", "delete", "motor", "--yes").code == 0
        assert signalbox("match", "consume", "motor").err == 'error: There is no subscription "motor" in this project\n'


def test_consume_goes_on_over_a_restart_and_settles_before_it_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server("automation", "create", "Thanks", "--event", ORDER, "--activate")
        server("subscription", "create", "engine")
        consuming = server.begin("match", "consume", "engine", "--json")
        server("event", "send", ORDER, "--email", ADA)
        assert json.loads(read_line(consuming.stdout))["match"]["position"] == 1
        assert server.stop() == 0
        assert "waiting" in read_line(consuming.stderr)
    with serving(tmp_path, server.address) as server:
        assert "is back" in read_line(consuming.stderr)
        server("event", "send", ORDER, "--email", ADA)
        assert json.loads(read_line(consuming.stdout))["match"]["position"] == 2
        consuming.send_signal(signal.SIGINT)
        assert (*consuming.communicate(timeout=20), consuming.returncode) == ("", "", 130)
        stats = server("subscription", "show", "engine", "--json").json["subscription"]["stats"]
        assert (stats["floor_position"], stats["outstanding_count"], stats["consumer_count"]) == (2, 0, 0)


def test_an_event_is_explained_as_a_tree(signalbox: Server) -> None:
    sent = signalbox("event", "send", ORDER, "--email", ADA, "--properties", '{"order_total":1}', "--json").json
    explained = signalbox("event", "explain", sent["event"]["id"])
    assert (explained.code, explained.err) == (0, "")
    lines = explained.out.splitlines()
    assert re.fullmatch(r"welcome \([0-9a-f-]{36}\): did not match", lines[0])
    missing = "[properties.is_first_purchase is missing]"
    assert lines[1] == f"  MISSING  properties.is_first_purchase   {missing}"
    (as_json,) = signalbox("automation", "explain", sent["event"]["id"], "--json").json
    assert (as_json["matched"], as_json["verdict"]) == (False, "VERDICT_MISSING")


@pytest.mark.parametrize(
    ("condition", "code", "shown"),
    [
        ("properties.order_total > 100", 0, "[properties.order_total is 120]"),
        ("properties.order_total > 200", 2, "FALSE"),
        ("properties.order_totl > 100", 2, "line 1, column 1: UNKNOWN_PROPERTY"),
        ('contact.properties.tier == "gold"', 0, "TRUE"),
    ],
)
def test_a_condition_is_tried(signalbox: Server, condition: str, code: int, shown: str) -> None:
    given = ("--properties", '{"order_total":120}', "--contact-properties", '{"tier":"gold"}')
    tried = signalbox("automation", "test", condition, "--event", ORDER, *given)
    assert tried.code == code, tried.err
    assert shown in tried.out


def test_a_schema_that_breaks_a_condition_in_use_is_forced(signalbox: Server) -> None:
    signalbox("definition", "create", "cli_forced", "--property", "a:number")
    signalbox("automation", "create", "x", "--event", "cli_forced", "--condition", "properties.a > 1", "--activate")
    refused = signalbox("definition", "update", "cli_forced", "--property", "a:string")
    assert refused.code != 0
    assert "break" in refused.err
    forced = signalbox("definition", "update", "cli_forced", "--property", "a:string", "--force")
    assert (forced.code, forced.err) == (0, "")
