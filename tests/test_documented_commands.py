"""The commands that README.md and docs/ show print what stands there, ids and times apart."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.console import PAGES, ROOT, comparable, examples, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.checkout, pytest.mark.timeout(600)]


DOCUMENTATION = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
TOPS = ("automation", "bench", "examples", "protos", "registry", "server", "tests")


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_print_what_it_shows(name: str, tmp_path: Path) -> None:
    shown = examples((ROOT / name).read_text(encoding="utf-8"))
    assert shown
    if shutil.which("curl") is None and any("curl http" in example.command for example in shown):
        pytest.skip("curl is not installed")
    printed = run([example.command for example in shown], tmp_path)
    for example, output in zip(shown, printed, strict=True):
        assert comparable(output) == comparable(example.output), f"{name}: {example.command}\n(`make docs` renews it)"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_documentation_has_no_command_that_ends_processes_by_name() -> None:
    for page in DOCUMENTATION:
        assert "pkill" not in page.read_text(encoding="utf-8"), page


def test_the_documentation_names_files_that_exist() -> None:
    files = [f"/{path.relative_to(ROOT)}" for top in TOPS for path in (ROOT / top).rglob("*") if path.is_file()]
    for page in DOCUMENTATION:
        for name in re.findall(r"`([\w./-]+\.(?:py|proto|txt))`", page.read_text(encoding="utf-8")):
            assert any(path.endswith(f"/{name}") for path in files), f"{page.name}: {name}"


def test_links_within_the_documentation_lead_somewhere() -> None:
    for page in DOCUMENTATION:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
