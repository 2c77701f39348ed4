from __future__ import annotations

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
