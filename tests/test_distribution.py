"""The distribution: its name is not that of the product and the command, which is another project's on PyPI."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from server.cli.main import run
from server.storage.opening import open_database
from server.version import DISTRIBUTION, version

ROOT = Path(__file__).parents[1]


def test_the_distribution_has_the_command_and_the_extra() -> None:
    installed = distribution(DISTRIBUTION)
    assert installed.version == version()
    assert {"postgres", "dev"} <= set(installed.metadata.get_all("Provides-Extra") or ())
    (script,) = installed.entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("signalbox", "server.__main__:main")


def test_the_command_keeps_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("--version",)) == 0
    assert capsys.readouterr().out.endswith(f" {version()}\n")


@pytest.mark.checkout
def test_the_project_has_the_name_of_its_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == (DISTRIBUTION, version())
    assert set(project["scripts"]) == {"signalbox"}


@pytest.mark.checkout
def test_nothing_installs_the_project_of_another() -> None:
    """Every extra, and every installation by name, that a kept text mentions is of this distribution."""
    listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    texts = [ROOT / name for name in listed.splitlines() if not name.startswith("generated/")]
    wrong = re.compile(r"signalbox\[[a-z]|pip install (?:-\S+ )*['\"]?signalbox(?!-events)\b")
    assert [str(path) for path in texts if path != Path(__file__) and wrong.search(path.read_text("utf-8"))] == []


async def test_a_database_whose_driver_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ValueError, match=re.escape(f"pip install '{DISTRIBUTION}[postgres]'")):
        await open_database("postgresql://host/name")
