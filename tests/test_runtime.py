"""Settings of the whole process, and the version of the program."""

from __future__ import annotations

import gc
import sys
import weakref
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from server.process.runtime import collect_garbage_rarely, favour_database_threads
from server.version import DISTRIBUTION, POSTGRES_EXTRA, version

if TYPE_CHECKING:
    from collections.abc import Iterator


class Garbage:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave the process as it was."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("restored")
def test_database_threads_wait_shorter_under_large_batches_and_else_as_long_as_ever() -> None:
    favour_database_threads(large_batches=True)
    shorter = sys.getswitchinterval()
    favour_database_threads(large_batches=False)
    assert (shorter < 0.001, sys.getswitchinterval()) == (True, 0.005)


@pytest.mark.usefixtures("restored")
def test_what_is_loaded_at_the_start_is_never_searched_for_garbage() -> None:
    gc.unfreeze()
    garbage = Garbage()
    kept = weakref.ref(garbage)
    del garbage
    collect_garbage_rarely()
    assert gc.get_freeze_count() > 1_000
    assert gc.get_threshold() == (50_000, 4, 500)
    # Garbage is collected before the rest is frozen: it would stay for ever.
    assert kept() is None


def test_the_version_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def installed(name: str) -> str:
        asked.append(name)
        return "1.2.3"

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", installed)
    assert (version.__wrapped__(), asked) == ("1.2.3", [DISTRIBUTION])
    assert f"{DISTRIBUTION}[postgres]" == POSTGRES_EXTRA
    monkeypatch.setattr(metadata, "version", missing)
    assert version.__wrapped__() == "unknown"
