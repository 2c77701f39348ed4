"""A disk that fills up: sends are refused with the reason, reads go on, and nothing acknowledged is lost."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.automations import automate
from tests.support.messages import event
from tests.support.refusals import read_refusal
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Client

DISK = 12 << 20
LEFT = 2 << 20
"""The number of bytes left for the database."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk], check=False, capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"A small disk cannot be mounted here, which takes root: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_refuses_sends_and_loses_nothing(small_disk: Path) -> None:
    path, ballast = small_disk / "signalbox.db", small_disk / "ballast"
    async with serving(f"sqlite:///{path}") as service:
        shop = await service.shop()
        await automate(shop)
        ballast.write_bytes(bytes(free(small_disk) - LEFT))
        stored = [(await shop.send(event({"currency": "first"}))).event.id]
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await send_until_refused(shop, stored)
        assert read_refusal(full.value).reason == "STORAGE_FULL"
        assert [each.id for each in await shop.log()] == stored
        ballast.unlink()
        stored.append((await shop.send(event({"currency": "last"}))).event.id)
        assert [each.id for each in await shop.log()] == stored
    async with serving(f"sqlite:///{path}") as service:
        log = await service.client(shop.secret).log()
        assert [(each.position, each.id) for each in log] == list(enumerate(stored, 1))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM automation_match").fetchone() == (len(stored),)


async def send_until_refused(shop: Client, stored: list[str]) -> None:
    while True:
        stored.append((await shop.send(event({"currency": "x" * 50_000}))).event.id)


def free(folder: Path) -> int:
    """Return how many bytes the disk of a folder has left."""
    output = subprocess.run(["df", "--output=avail", "-B1", folder], check=True, capture_output=True, text=True).stdout
    return int(output.split()[1])
