"""How the user started this program, so that printed commands can be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """Return the command that starts this program: `signalbox` if it is on the PATH, else the shortest path to it."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return f"{_shortest(Path(sys.executable))} -m server"
    return _command(started)


def neighbour(name: str) -> str:
    """Return the command for a program installed in the same folder; the bare name if there is none."""
    path = Path(sys.executable).with_name(name)
    return _command(path) if path.exists() else name


def _command(path: Path) -> str:
    found = shutil.which(path.name)
    return path.name if found is not None and Path(found).absolute() == path.absolute() else _shortest(path)


def _shortest(path: Path) -> str:
    whole = str(path.absolute())
    return shlex.quote(min(whole, os.path.relpath(whole), key=len))
