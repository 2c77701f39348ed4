"""The commands of operators: who calls, keys that are rotated, projects that are deleted, and who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command_line import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("operators")) as running:
        assert running("project", "create", "shop").code == 0
        yield running


def test_a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while(server: Server) -> None:
    made = server("key", "create", "--project", "shop", "--name", "checkout", "--scope", "events:write", "--json").json
    key_id, secret = made["api_key"]["id"], made["secret"]
    known = server("whoami", "--key", secret, "--json").json
    assert known["project"]["name"] == "shop"
    assert (known["api_key"]["id"], known["api_key"]["scopes"]) == (key_id, ["events:write"])
    rotated = server("key", "rotate", key_id, "--grace", "1h", "--json").json
    assert rotated["secret"] != secret
    for each in (secret, rotated["secret"]):
        assert server("whoami", "--key", each, "--json").json["api_key"]["id"] == key_id
    assert server("key", "rotate", key_id, "--json").code == 0
    refused = server("whoami", "--key", secret)
    assert (refused.code, refused.err.startswith("error: ")) == (1, True)
    entries = server("audit", "list", "--project", "shop", "--resource-id", key_id, "--json").json
    assert [entry["action"] for entry in entries] == ["RotateApiKey", "RotateApiKey", "CreateApiKey"]
    assert secret not in str(entries)


def test_an_empty_key_does_not_stand_for_the_admin_key(server: Server) -> None:
    refused = server("whoami", "--key", "")
    assert refused.code == 2
    assert "the key is empty; leave the option out to use the admin key of this machine" in refused.err


def test_the_changes_of_a_project_are_exported_oldest_first(server: Server) -> None:
    assert server("definition", "create", "paid", "--project", "shop").code == 0
    assert server("definition", "update", "paid", "--project", "shop", "--description", "x").code == 0
    lines = server("audit", "export", "--project", "shop", "--resource-type", "event_definition").json_lines
    assert [line["action"] for line in lines] == ["CreateEventDefinition", "UpdateEventDefinition"]
    assert (lines[1]["before"].get("description"), lines[1]["after"]["description"]) == (None, "x")
    assert server("audit", "list", "--project", "shop", "--action", "CreateEventDefinition").out.count("paid") <= 1


def test_the_key_of_a_project_is_refused_the_changes_of_all_projects(server: Server) -> None:
    secret = server("key", "create", "--project", "shop", "--scope", "audit:read", "--json").json["secret"]
    assert server("audit", "list", "--key", secret).code == 0
    for command in ("list", "export"):
        refused = server("audit", command, "--all-projects", "--key", secret)
        assert (refused.code, refused.out) == (1, "")
        assert "--all-projects needs the admin key; this key sees the project shop alone" in refused.err
    projects = {entry.get("project_id", "") for entry in server("audit", "list", "--all-projects", "--json").json}
    assert len(projects) > 1


def test_a_deleted_project_is_gone_but_for_its_audit_log(server: Server) -> None:
    project_id = server("project", "create", "old", "--json").json["id"]
    secret = server("key", "create", "--project", "old", "--json").json["secret"]
    unasked = server("project", "delete", "old")
    assert (unasked.code, "confirm with --yes" in unasked.err) == (1, True)
    assert server("project", "show", "old").code == 0
    assert server("project", "delete", "old", "--dry-run", "--yes", "--json").json["api_key_count"] == 1
    assert server("project", "delete", "old", "--yes").code == 0
    assert "old" in server("project", "show", "old").err
    assert server("whoami", "--key", secret).code == 1
    entries = server("audit", "list", "--project-id", project_id, "--json").json
    assert {"CreateProject", "CreateApiKey", "DeleteProject"} <= {entry["action"] for entry in entries}
