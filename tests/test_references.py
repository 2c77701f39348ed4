"""Documents, docstrings and comments name files, folders and modules that exist, also after these have moved."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.checkout

FILE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:md|proto|py|sh|toml|yaml))`")
FOLDER = re.compile(r"`((?:[\w-]+/)+)`")
MODULE = re.compile(r"`((?:automation|bench|registry|server|tests)(?:\.\w+)+)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@cache
def paths() -> list[Path]:
    """Return the files of the project, relative to its folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return [path for path in map(Path, listed.splitlines()) if (ROOT / path).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in paths():
        if path.suffix in {".md", ".proto", ".py"} and path.parts[0] != "generated":
            yield path, (ROOT / path).read_text()


def ends_of(path: Path) -> Iterator[str]:
    """Yield a path, and what is left of it without its first folders: a text about a package leaves them out."""
    return ("/".join(path.parts[at:]) for at in range(len(path.parts)))


def exists(module: str) -> bool:
    """Return whether a name is that of a module or package, or of something in a module."""
    place = ROOT / module.replace(".", "/")
    if place.is_dir() or place.with_suffix(".py").is_file():
        return True
    found, _, name = module.rpartition(".")
    above = ROOT / found.replace(".", "/")
    for file in (above.with_suffix(".py"), above / "__init__.py"):
        if file.is_file():
            return re.search(rf"\b{name}\b", file.read_text()) is not None
    return "." in found and exists(found)


def test_files_and_folders_that_are_named_exist() -> None:
    files = {end for path in paths() for end in ends_of(path)}
    folders = {f"{end}/" for parent in {above for path in paths() for above in path.parents} for end in ends_of(parent)}
    wrong = [
        f"{path}: {name}"
        for path, text in texts()
        for pattern, known in ((FILE, files), (FOLDER, folders))
        for name in pattern.findall(text)
        if name not in known
    ]
    assert wrong == []


def test_modules_that_are_named_exist() -> None:
    named = [(path, name) for path, text in texts() for name in MODULE.findall(text) if not name.endswith(".py")]
    assert [f"{path}: {name}" for path, name in named if not exists(name)] == []


def test_links_between_documents_lead_somewhere() -> None:
    links = [(path, link) for path, text in texts() if path.suffix == ".md" for link in LINK.findall(text)]
    assert len(links) > 50
    assert [f"{path}: {link}" for path, link in links if not (ROOT / path.parent / link).exists()] == []
