"""The receivers and commands of docs/webhooks.md, run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pytest

from tests.support.command_line import ENVIRONMENT, read_line, serving
from tests.support.console import ROOT, comparable, examples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.checkout, pytest.mark.timeout(120)]

PAGE = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
SHOWN_PORT = "9000"
CLIENTS = os.environ.get("SIGNALBOX_NODE_CLIENTS", "")
VARYING = ((re.compile(r"whsec_\S+"), "SECRET"), (re.compile(r"\d+ ms *"), "SOME ms "), (re.compile(" +"), " "))


def block(language: str) -> str:
    """Return the one block of the page in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def alike(output: str) -> str:
    """Return an output without what differs from run to run."""
    output = comparable(output)
    for pattern, name in VARYING:
        output = pattern.sub(name, output)
    return output.replace(" \n", "\n")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def receiver(command: Sequence[str], secret: str, port: str) -> Iterator[IO[str]]:
    """Run a receiver, and yield what it prints."""
    environment = ENVIRONMENT | {"WEBHOOK_SECRET": secret, "PORT": port}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for _ in range(500):
                with socket.socket() as probe:
                    if not probe.connect_ex(("127.0.0.1", int(port))):
                        break
                asyncio.run(asyncio.sleep(0.02))
            yield process.stdout
        finally:
            process.kill()


def follow(folder: Path, command: Sequence[str]) -> None:
    """Run the commands of the page one after another; the receiver is started as soon as its secret is known."""
    port = free_port()
    with serving(folder, "127.0.0.1:0", "--push-networks", "127.0.0.0/8") as signalbox:
        outputs = []
        create, *rest = examples(PAGE)
        made = signalbox(*shlex.split(create.command.replace(SHOWN_PORT, port))[1:])
        (secret,) = re.findall(r"^secret +(\S+)$", made.out, re.MULTILINE)
        outputs.append(made.out)
        with receiver(command, secret, port) as printed:
            outputs += [signalbox(*shlex.split(each.command)[1:]).out for each in rest]
            assert read_line(printed) == "would mail ada@example.com\n"
        shown = signalbox("subscription", "show", "hooks").out.splitlines()
    for example, output in zip((create, *rest), outputs, strict=True):
        assert alike(output.replace(port, SHOWN_PORT)) == alike(example.output), example.command
    (last,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert alike("\n".join(shown[-2:])) == alike(last.rstrip("\n"))


def test_the_receiver_in_python_gets_what_the_page_sends(tmp_path: Path) -> None:
    script = tmp_path / "receiver.py"
    script.write_text(block("python"))
    follow(tmp_path, [sys.executable, str(script)])


def test_the_receiver_in_node_gets_what_the_page_sends(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not CLIENTS:
        pytest.skip(
            "node is not installed, or SIGNALBOX_NODE_CLIENTS names no folder with the package standardwebhooks"
        )
    script = tmp_path / "receiver.mjs"
    script.write_text(block("javascript"))
    (tmp_path / "node_modules").symlink_to(f"{CLIENTS}/node_modules")
    follow(tmp_path, [node, str(script)])
