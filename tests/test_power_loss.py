"""The power fails at any moment: every acknowledged event is in what the disk has kept."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.automations import automate
from tests.support.messages import event, orders
from tests.support.process import READY
from tests.support.service import ADMIN_KEY, connected, serving
from tests.torture.disk import Disk, Operation, Record, compile_log, read_log
from tests.torture.nodes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.service import Client

CUTS = int(os.environ.get("SIGNALBOX_POWER_CUTS", "4"))
SEED = int(os.environ.get("SIGNALBOX_POWER_SEED", "0")) or random.randrange(1, 1 << 32)  # noqa: S311 - any will do
CHECKPOINT_PAGES = 40
EVENTS = 60


class Recorded:
    """A run of a server on a logged disk: which events were acknowledged at which place of the log."""

    def __init__(self, log: Path, secret: str, begun: int) -> None:
        self.log, self.secret, self.begun = log, secret, begun
        self.acknowledged: dict[int, int] = {}

    def acknowledge(self, position: int) -> None:
        self.acknowledged[position] = self.size()

    def size(self) -> int:
        return self.log.stat().st_size

    def owed(self, cut: int) -> set[int]:
        return {position for position, size in self.acknowledged.items() if size <= cut}


@pytest_asyncio.fixture(scope="module")
async def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return await record_run(tmp_path_factory.mktemp("power"))


async def record_run(folder: Path) -> Recorded:
    """Send events, alone and in batches, to a server whose database lies on a logged disk; then kill it."""
    library = compile_log(folder)
    if library is None:
        pytest.skip("There is no C compiler for the library that logs what is written: install gcc")
    disk, log = folder / "disk", folder / "disk.log"
    disk.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGNALBOX_")} | {
        "SIGNALBOX_ADMIN_KEY": ADMIN_KEY,
        "LD_PRELOAD": str(library),
        "DISK_LOG": str(log),
        "DISK_FOLDER": str(disk),
    }
    command = [sys.executable, "-m", "tests.torture.launcher", "--checkpoint-pages", str(CHECKPOINT_PAGES), "--"]
    serve = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--database", f"sqlite:///{disk}/signalbox.db"]
    process = await asyncio.create_subprocess_exec(
        *command, *serve, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        ready = READY.match((await process.stdout.readline()).decode())
        assert ready, "the server did not become ready"
        async with connected(ready[1]) as service:
            shop = await service.shop()
            await automate(shop)
            recorded = Recorded(log, shop.secret, log.stat().st_size)
            await asyncio.gather(*(send(shop, recorded) for _ in range(3)))
    finally:
        process.kill()
        await process.wait()
    return recorded


async def send(shop: Client, recorded: Recorded) -> None:
    while len(recorded.acknowledged) < EVENTS:
        recorded.acknowledge((await shop.send(event({"currency": "x" * 2_000}))).event.position)
        for result in await shop.send_all(orders(5)):
            recorded.acknowledge(result.receipt.event.position)


async def lost_after(recorded: Recorded, records: Iterable[Record], cut: int, folder: Path) -> set[int]:
    """Return the positions of the acknowledged events that a server finds missing after a power cut."""
    Disk(records).lose_power(random.Random(f"{SEED} {cut}"), folder)  # noqa: S311 - to be repeated
    path = folder / "signalbox.db"
    async with serving(f"sqlite:///{path}") as service:
        client = service.client(recorded.secret)
        log = await client.log()
        assert [each.position for each in log] == list(range(1, len(log) + 1))
        await client.send()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        unmatched = "SELECT count(*) FROM event WHERE match_count <> 1"
        assert connection.execute(unmatched).fetchone() == (0,)
        events, matches = (
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - tables of our own
            for table in ("event", "automation_match")
        )
        assert events == matches
    return recorded.owed(cut) - {each.position for each in log}


@pytest.mark.timeout(480 + 30 * CUTS)
async def test_every_acknowledged_event_outlives_a_power_cut(recorded: Recorded, tmp_path: Path) -> None:
    records = list(read_log(recorded.log, recorded.size()))
    kinds = {record.operation for record in records}
    assert {Operation.WRITE, Operation.SYNC, Operation.LINK, Operation.SYNC_FOLDER} <= kinds, "the log is not complete"
    chance = random.Random(SEED)  # noqa: S311 - to be repeated
    moments = [*recorded.acknowledged.values(), *(record.end for record in records if record.end >= recorded.begun)]
    for number, cut in enumerate(chance.sample(moments, CUTS)):
        kept = [record for record in records if record.end <= cut]
        lost = await lost_after(recorded, kept, cut, tmp_path / f"cut-{number}")
        assert not lost, f"SIGNALBOX_POWER_SEED={SEED}: lost at byte {cut} of the log: {sorted(lost)}"


@pytest.mark.timeout(600)
async def test_a_disk_that_does_not_sync_is_found_out(recorded: Recorded, tmp_path: Path) -> None:
    """The same check over the same run fails once the log lacks what was synced after the first event."""
    cut = recorded.size()
    lying = [
        record
        for record in read_log(recorded.log, cut)
        if record.end <= recorded.begun or record.operation is not Operation.SYNC
    ]
    try:
        lost = await lost_after(recorded, lying, cut, tmp_path / "cut")
    except Exception:  # a database that does not open is found out too
        return
    assert lost


def test_synced_data_survives_and_the_rest_may_be_lost(tmp_path: Path) -> None:
    path = b"/disk/file"
    synced = [
        Record(Operation.LINK, 1, 0, path, 1),
        Record(Operation.WRITE, 1, 0, b"kept", 2),
        Record(Operation.SYNC, 1, 0, b"", 3),
        Record(Operation.SYNC_FOLDER, 2, 0, b"", 4),
    ]
    later = [Record(Operation.WRITE, 1, 4, b"lost", 5), Record(Operation.UNLINK, 0, 0, path, 6)]
    found = set()
    for seed in range(40):
        folder = tmp_path / str(seed)
        Disk([*synced, *later]).lose_power(random.Random(seed), folder)  # noqa: S311 - to be repeated
        file = folder / "file"
        found.add(file.read_bytes() if file.exists() else None)
    assert found == {b"kept", b"keptlost", None}
