"""The programs that docs/http.md shows, run as they stand there against a demo server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.command_line import serving
from tests.support.console import ROOT

pytestmark = [pytest.mark.checkout, pytest.mark.timeout(300)]

PAGE = (ROOT / "docs/http.md").read_text(encoding="utf-8")
NODE_CLIENTS = os.environ.get("SIGNALBOX_NODE_CLIENTS", "")


def blocks(language: str) -> list[str]:
    """Return the programs of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_program_of_the_page_is_run() -> None:
    programs = re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)
    assert {language: programs.count(language) for language in programs if language != "console"} == {
        "js": 4,
        "python": 1,
    }


def printed(program: str, folder: Path, name: str, *command: str) -> str:
    """Run a program against a new demo server, and return what it prints."""
    with serving(folder) as server:
        (folder / name).write_text(program.replace("127.0.0.1:8080", server.http_address))
        done = subprocess.run([*command, name], check=False, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_fetch_sends_an_event(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    assert printed(blocks("js")[0], tmp_path, "send.mjs", node) == "1\n"


def test_the_connect_client_of_node_sends_an_event(tmp_path: Path) -> None:
    node = node_with_clients(tmp_path)
    assert printed(blocks("js")[1], tmp_path, "send.mjs", node) == "1n\n"
    # It ends by itself, since the page aborts the call.
    assert len(printed(blocks("js")[2], tmp_path, "watch.mjs", node)) > 10


def test_the_connect_client_of_web_pages_sends_an_event(tmp_path: Path) -> None:
    node = node_with_clients(tmp_path)

    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path))) as files:
        Thread(target=files.serve_forever, daemon=True).start()
        program = blocks("js")[3].replace("127.0.0.1:8000", f"127.0.0.1:{files.server_port}")
        assert printed(program, tmp_path, "page.mjs", node) == "1n\n"
        files.shutdown()


def node_with_clients(folder: Path) -> str:
    """Return the path of node, with its Connect clients and the contract in a folder."""
    node = shutil.which("node")
    if node is None or not NODE_CLIENTS:
        pytest.skip("node is not installed, or SIGNALBOX_NODE_CLIENTS does not name a folder with its Connect clients")
    (folder / "node_modules").symlink_to(Path(NODE_CLIENTS) / "node_modules")
    buf = str(Path(sys.executable).parent / "buf")
    subprocess.run([buf, "build", "protos", "-o", str(folder / "signalbox.binpb")], check=True, cwd=ROOT)
    return node


def test_the_connect_client_of_python_sends_an_event(tmp_path: Path) -> None:
    assert printed(blocks("python")[0], tmp_path, "send.py", sys.executable) == "1\n"
