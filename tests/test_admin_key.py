from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from server.auth.admin_key import check_strength, read_or_make

if TYPE_CHECKING:
    from pathlib import Path


def test_the_first_start_makes_the_key_and_the_next_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "x.admin-key"
    made = read_or_make(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_or_make(file) == made


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_key_file_that_others_may_use_is_refused(tmp_path: Path, bit: int) -> None:
    file = tmp_path / "x.admin-key"
    read_or_make(file)
    file.chmod(0o600 | bit)
    with pytest.raises(ValueError, match="0600"):
        read_or_make(file)


def test_a_key_file_behind_a_link_is_refused(tmp_path: Path) -> None:
    read_or_make(tmp_path / "x.admin-key")
    (tmp_path / "link").symlink_to(tmp_path / "x.admin-key")
    with pytest.raises(OSError, match="symbolic links"):
        read_or_make(tmp_path / "link")


def test_a_short_admin_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        check_strength("x" * 15)
    assert check_strength("x" * 16) == "x" * 16


def test_a_new_key_is_256_random_bits_after_its_prefix(tmp_path: Path) -> None:
    first, second = (read_or_make(tmp_path / name) for name in ("a", "b"))
    assert first != second
    assert first.startswith("sb_admin_")
    # Base64 without padding: four characters for three bytes.
    assert len(first) == len("sb_admin_") + 43


@pytest.mark.parametrize(("owner", "taken"), [(1_000, True), (0, True), (1_001, False)])
def test_a_key_file_belongs_to_the_server_or_to_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, taken: bool
) -> None:
    file = tmp_path / "x.admin-key"
    made = read_or_make(file)
    status = os.stat_result((0o100600, 0, 0, 1, owner, owner, 53, 0, 0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    monkeypatch.setattr(os, "fstat", lambda _: status)
    if taken:
        assert read_or_make(file) == made
    else:
        with pytest.raises(ValueError, match="must be owned by the user of the server"):
            read_or_make(file)


@pytest.mark.parametrize(("content", "fault"), [("", "is empty"), (" \n", "is empty"), ("short\n", "at least 16")])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: str, fault: str) -> None:
    file = tmp_path / "x.admin-key"
    file.touch(mode=0o600)
    file.write_text(content)
    with pytest.raises(ValueError, match=fault):
        read_or_make(file)


def test_blanks_around_a_key_do_not_belong_to_it(tmp_path: Path) -> None:
    file = tmp_path / "x.admin-key"
    file.touch(mode=0o600)
    file.write_text("  the_key_of_a_person \n\n")
    assert read_or_make(file) == "the_key_of_a_person"
