"""The commands for subscriptions that push."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import click
import pytest

from server.cli.arguments.value_parsers import networks
from server.cli.commands.subscriptions import subscription
from tests.support.command_line import command, serving
from tests.support.messages import ADA, ORDER
from tests.support.receiver import OTHER_SECRET, SECRET, answer, receiving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.command_line import Result


def shown(result: Result) -> dict[str, str]:
    """Return the fields that a command has printed."""
    assert result.code == 0, result.err
    return dict(re.split("  +", line, maxsplit=1) for line in result.out.splitlines() if "  " in line)


async def test_a_subscription_pushes_is_pinged_rotated_paused_and_cleared(tmp_path: Path) -> None:
    async with receiving() as receiver:
        with serving(tmp_path, "127.0.0.1:0", "--push-networks", "127.0.0.0/8") as signalbox:

            async def run(*arguments: str) -> Result:
                return await asyncio.to_thread(signalbox, *arguments)

            made = shown(
                await run(
                    "subscription",
                    "create",
                    "mailer",
                    "--push",
                    receiver.url,
                    "--header",
                    "X-Team: crm",
                    "--push-timeout",
                    "5s",
                )
            )
            assert (made["pushes to"], made["headers"], made["secrets"]) == (receiver.url, "X-Team", "1")
            assert made["timeout"] == "5s"
            updated = shown(await run("subscription", "update", "mailer", "--push-timeout", "7s", "--timeout", "20"))
            assert updated["timeout"] == "7s"
            receiver.secret = made["secret"]
            ping = await run("subscription", "ping", "mailer")
            assert shown(ping)["status"] == "200"
            assert receiver.requests[0].headers["x-team"] == "crm"
            receiver.always(answer(500), answer())
            ping = await run("subscription", "ping", "mailer")
            assert ping.code == 1
            assert "the ping was not acknowledged: the receiver answered 500 Internal Server Error" in ping.err
            await run("event", "send", ORDER, "--email", ADA, "--properties", '{"is_first_purchase":true}')
            await receiver.received(3)
            receiver.secret = shown(await run("subscription", "update", "mailer", "--rotate-secret"))["secret"]
            assert "secret " not in (status := await run("subscription", "show", "mailer")).out
            assert re.search(r" ms +200 +1 +[0-9a-f-]{36}$", status.out, re.MULTILINE)
            changed = shown(
                await run(
                    "subscription", "update", "mailer", "--secret", receiver.secret, "--max-in-flight", "3", "--pause"
                )
            )
            assert (changed["secrets"], changed["in flight"]) == ("1", "at most 3")
            assert "paused" in changed
            assert "paused" not in shown(await run("subscription", "update", "mailer", "--resume"))
            assert "secret" not in shown(await run("subscription", "update", "mailer", "--secret", OTHER_SECRET))
            cleared = await run("subscription", "update", "mailer", "--no-push", "--json")
            assert "push" not in cleared.json


def test_options_of_a_push_need_its_url() -> None:
    refused = command("subscription", "create", "mailer", "--secret", SECRET)
    assert refused.code == 2
    assert "need --push" in refused.err
    refused = command("subscription", "create", "mailer", "--push", "https://example.com", "--header", "X")
    assert "Invalid value for '--header'" in refused.err
    assert "write NAME:VALUE" in refused.err


def test_headers_of_the_environment_may_contain_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "SIGNALBOX_SUBSCRIPTION_CREATE_HEADERS"
    create = subscription.commands["create"]
    (option,) = (option for option in create.params if option.name == "headers")
    monkeypatch.setenv(variable, "Authorization: Bearer of-the-receiver\nX-Team:crm")
    context = click.Context(create, auto_envvar_prefix="SIGNALBOX_SUBSCRIPTION_CREATE")
    value = option.type_cast_value(context, option.value_from_envvar(context))
    assert value == (("Authorization", "Bearer of-the-receiver"), ("X-Team", "crm"))
    refused = command("subscription", "create", "mailer", "--push", "https://example.com", "--header", "tiptop")
    assert refused.code == 2
    assert "tiptop" not in refused.err


@pytest.mark.parametrize("words", [("create", "mailer", "--push", "https://example.com"), ("update", "mailer")])
def test_a_header_is_given_once(words: Sequence[str]) -> None:
    refused = command("subscription", *words, "--header", "X:tiptop", "--header", "X:b")
    assert refused.code == 2
    assert "--header X is given twice" in refused.err
    assert "tiptop" not in refused.err


@pytest.mark.parametrize("text", ["127.0.0.1/8", "localhost", "10.0.0.0/33", "10.0.0.0/8;::1/128"])
def test_networks_are_written_in_cidr_notation(text: str) -> None:
    refused = command("serve", "--push-networks", text)
    assert refused.code == 2
    assert "write networks such as 10.1.0.0/16,127.0.0.0/8" in refused.err


def test_networks_are_separated_by_commas() -> None:
    assert [str(network) for network in networks("10.0.0.0/8, ::1/128,127.0.0.1")] == [
        "10.0.0.0/8",
        "::1/128",
        "127.0.0.1/32",
    ]
    assert networks("") == ()
