"""A disk that loses power: rebuilds the files of a folder from a log of what was done to them.

`disk_log.c` writes the log. What was synced is kept. Of what was not, the disk keeps any part: writes in any order,
each whole, torn between two sectors or not at all, and of the changes to names the first few.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from random import Random

SECTOR: Final = 512
_HEADER: Final = struct.Struct("=BQQQ")


class Operation(IntEnum):
    """An operation on a file or a name."""

    WRITE = 1
    TRUNCATE = 2
    SYNC = 3
    LINK = 4
    UNLINK = 5
    RENAME = 6
    SYNC_FOLDER = 7


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log; `end` is where it ends there."""

    operation: Operation
    inode: int
    offset: int
    data: bytes
    end: int


@dataclass
class _File:
    """A file: its content on the disk, and the operations since it was synced."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Record] = field(default_factory=list)


class Disk:
    """The files of one folder after all operations of a log."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._files: dict[int, _File] = defaultdict(_File)
        self._names: dict[str, int] = {}
        self._pending: list[Record] = []
        for record in records:
            self._apply(record)

    def lose_power(self, random: Random, folder: Path) -> None:
        """Write the files as a power cut leaves them into a new folder."""
        folder.mkdir()
        names = dict(self._names)
        for record in self._pending[: random.randint(0, len(self._pending))]:
            _change_names(names, record)
        for path, inode in names.items():
            file = self._files[inode]
            contents = bytearray(file.durable)
            for record in random.sample(file.pending, random.randint(0, len(file.pending))):
                _change_contents(contents, record, random.choice((None, random.randint(0, len(record.data) // SECTOR))))
            (folder / Path(path).name).write_bytes(contents)

    def _apply(self, record: Record) -> None:
        match record.operation:
            case Operation.WRITE | Operation.TRUNCATE:
                self._files[record.inode].pending.append(record)
            case Operation.SYNC:
                file = self._files[record.inode]
                for each in file.pending:
                    _change_contents(file.durable, each, None)
                file.pending.clear()
            case Operation.SYNC_FOLDER:
                for each in self._pending:
                    _change_names(self._names, each)
                self._pending.clear()
            case _:
                self._pending.append(record)


def _change_contents(contents: bytearray, record: Record, sectors: int | None) -> None:
    """Apply a write or truncation; of a torn write only some sectors."""
    if record.operation is Operation.TRUNCATE:
        del contents[record.offset :]
        contents.extend(bytes(record.offset - len(contents)))
        return
    data = record.data if sectors is None else record.data[: sectors * SECTOR]
    contents.extend(bytes(max(0, record.offset - len(contents))))
    contents[record.offset : record.offset + len(data)] = data


def _change_names(names: dict[str, int], record: Record) -> None:
    path = record.data.decode()
    match record.operation:
        case Operation.LINK:
            names[path] = record.inode
        case Operation.UNLINK:
            names.pop(path, None)
        case _:
            source, _, target = path.partition("\0")
            if source in names:
                names[target] = names.pop(source)


def read_log(log: Path, until: int) -> Iterator[Record]:
    """Read the records that end within the first `until` bytes of a log."""
    contents = log.read_bytes()[:until]
    start = 0
    while start + _HEADER.size <= len(contents):
        operation, inode, offset, length = _HEADER.unpack_from(contents, start)
        end = start + _HEADER.size + (length if operation != Operation.TRUNCATE else 0)
        if end > len(contents):
            return
        yield Record(Operation(operation), inode, offset, contents[start + _HEADER.size : end], end)
        start = end


def compile_log(folder: Path) -> Path | None:
    """Compile the library that writes the log; None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "disk_log.so"
    source = Path(__file__).with_name("disk_log.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library
