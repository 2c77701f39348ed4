"""The commands that README.md and docs/ show, run as they stand on a page, against a new demo server for each page.

`python -m tests.support.console` writes what they print into the pages; ids and times that are shown stay as they are.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.command_line import ENVIRONMENT, forker, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/http.md",
    "docs/sending.md",
    "docs/definitions.md",
    "docs/delivery.md",
    "docs/dialects.md",
    "docs/refused.md",
)

_FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK: Final = "=== next command ==="
_AS_ON_A_TERMINAL = 'silent\nshow-error\nwrite-out = "\\n"\n'
"""curl's settings: no progress bar, though its output is a pipe, and the line ends before the next prompt."""

_SHOWN_GRPC, _SHOWN_HTTP = "127.0.0.1:50051", "127.0.0.1:8080"
_VARYING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"^id: [\w-]+$", re.MULTILINE), "id: CURSOR"),
    (re.compile(r'"cursor":"[\w-]+"'), '"cursor":"CURSOR"'),
    # With the spaces that fill the column: a time whose microseconds end in 000 is shorter.
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z(?: *(?=  ))?"), "TIME"),
)


@dataclass(frozen=True)
class Shown:
    """A command, with continuation lines, and its output, as a page shows them."""

    command: str
    output: str

    @property
    def text(self) -> str:
        return f"$ {self.command}\n{self.output}"


def examples(page: str) -> list[Shown]:
    """Return the commands of a page in their order."""
    return [shown for block in _FENCE.findall(page) for shown in _examples(block)]


def _examples(block: str) -> Iterator[Shown]:
    assert block.startswith("$ "), block
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, output = _split(part)
        yield Shown(command, output)


def _split(part: str) -> tuple[str, str]:
    lines = part.splitlines()
    size = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
    output = "\n".join(lines[size:]).rstrip("\n")
    return "\n".join(lines[:size]), f"{output}\n" if output else ""


def run(commands: list[str], folder: Path) -> list[str]:
    """Return what each command prints, run one after the other in one shell."""
    _link_environment(folder / ".venv")
    for name in ("examples", "protos"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".curlrc").write_text(_AS_ON_A_TERMINAL)
    with serving(folder) as server:
        script = "\n".join(f"{command}\necho {_MARK!r}" for command in commands)
        for shown, real in ((_SHOWN_GRPC, server.address), (_SHOWN_HTTP, server.http_address)):
            script = script.replace(shown, real)
        done = subprocess.run(
            ["bash"],
            check=False,
            cwd=folder,
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT | {"SIGNALBOX_SERVER": server.address, "CURL_HOME": str(folder)},
        )
        printed = done.stdout.replace(server.address, _SHOWN_GRPC).replace(server.http_address, _SHOWN_HTTP)
    return [_ended(output) for output in printed.split(f"{_MARK}\n")[:-1]]


def _link_environment(folder: Path) -> None:
    """Make an environment of links to this one, but with a `signalbox` that need not import everything."""
    (folder / "bin").mkdir(parents=True)
    for path in (*Path(sys.prefix).iterdir(), *Path(sys.prefix, "bin").iterdir()):
        if path.name not in {"bin", "signalbox"}:
            (folder / path.relative_to(sys.prefix)).symlink_to(path)
    forker.install(folder / "bin" / "signalbox")


def _ended(output: str) -> str:
    output = output.strip("\n")
    return f"{output}\n" if output else ""


def comparable(output: str) -> str:
    """Return the output without what differs from run to run."""
    for pattern, name in _VARYING:
        output = pattern.sub(name, output)
    return output


def refreshed(page: str, folder: Path) -> str:
    """Return the page with the output of now wherever that differs in more than ids and times."""
    shown = examples(page)
    printed = iter(run([example.command for example in shown], folder))

    def write(fence: re.Match[str]) -> str:
        parts = [Shown(example.command, _newer(example.output, next(printed))) for example in _examples(fence[1])]
        return "```console\n" + "\n".join(part.text for part in parts) + "```"

    return _FENCE.sub(write, page)


def _newer(old: str, new: str) -> str:
    return old if comparable(old) == comparable(new) else new


def main() -> None:
    """Refresh every page that differs."""
    for name in PAGES:
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            new = refreshed(page, Path(folder))
        if new != page:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
