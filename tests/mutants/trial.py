"""Run tests in a forked child of a process that has imported everything but this project.

A mutated or instrumented module is compiled from its tree when the child imports it; nothing is written to the source.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import os
import pickle
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
    from types import CodeType

ROOT = Path(__file__).parent.parent.parent
REACHED = "__reached_lines__"
MEMORY_BYTES = 6 << 30
THIRD_PARTY = (
    "alembic.command", "asyncpg", "google.protobuf.json_format", "grpc.aio", "grpc_health.v1", "httptools", "httpx",
    "grpc_reflection.v1alpha", "lark", "msgspec", "prometheus_client", "re2", "rich.console", "sqlalchemy.ext.asyncio",
    "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "structlog", "uvicorn", "uvloop", "yaml",
)  # fmt: skip
ALL_PASSED, SOME_FAILED = 0, 1
TOOK_TOO_LONG = -signal.SIGKILL
SURVEY_SECONDS = 3_600

Line: TypeAlias = tuple[str, int]
"""A module and the number of a line in it."""


class Index:
    """The numbers of the instrumented lines; those of a module follow each other."""

    def __init__(self) -> None:
        self._numbers: dict[Line, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, module: str, line: int) -> int:
        """Return the number of a line, a new one the first time."""
        return self._numbers.setdefault((module, line), len(self._numbers))

    def find(self, lines: Iterable[Line]) -> list[int]:
        """Return the numbers of those of the lines that are instrumented."""
        return [self._numbers[line] for line in lines if line in self._numbers]

    def of_module(self, module: str) -> slice:
        """Return the numbers of all lines of a module."""
        numbers = [number for (where, _), number in self._numbers.items() if where == module]
        return slice(numbers[0], numbers[-1] + 1) if numbers else slice(0, 0)


@dataclass
class Survey:
    """The lines that each test reached itself and by its fixtures, its cost in seconds of the processor, and its time.

    Lines are a byte each, by their numbers: 1 if the line was reached. Those of a fixture that outlives a test belong
    to the node of its scope; those of imports belong to all tests.
    """

    called: dict[str, bytes] = field(default_factory=dict)
    prepared: dict[str, bytes] = field(default_factory=dict)
    shared: dict[str, bytes] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def add(self, other: Survey) -> None:
        """Add a survey of other test files."""
        self.called |= other.called
        self.prepared |= other.prepared
        self.costs |= other.costs
        self.seconds |= other.seconds
        self.failed += other.failed
        for node, reached in other.shared.items():
            self.shared[node] = _merged(reached, self.shared.get(node))

    def reaching(self, lines: Sequence[int], module: slice) -> list[str]:
        """Return the tests that reach one of the lines, first those that do so themselves, the most specific first."""

        def reaches(reached: bytes) -> bool:
            return any(reached[line] for line in lines)

        everywhere = tuple(node for node, reached in self.shared.items() if reaches(reached))
        near = {name for name, reached in self.called.items() if reaches(reached)}
        far = {name for name, reached in self.prepared.items() if reaches(reached) or name.startswith(everywhere)}
        return self._ranked(near, module) + self._ranked(far - near, module)

    def all_of(self, module: slice) -> list[str]:
        """Return the tests that reach a line of the module themselves, the most specific first."""
        return self._ranked([name for name, reached in self.called.items() if any(reached[module])], module)

    def _ranked(self, names: Collection[str], module: slice) -> list[str]:
        """Sort tests: those that reach few lines of the module at a low cost come first, those without any last."""

        def rank(name: str) -> tuple[bool, float, str]:
            reached = sum(self.called[name][module])
            return reached == 0, reached * (0.05 + self.costs[name]), name

        return sorted(names, key=rank)


def _merged(reached: bytes | bytearray, before: bytes | None) -> bytes:
    return bytes(reached) if before is None else bytes(map(max, reached, before))


class Surveying:
    """A plugin that fills a survey."""

    def __init__(self, survey: Survey, lines: int) -> None:
        self.survey = survey
        self._lines = lines
        # Lines that run while tests are collected, at the import of their modules, count for all tests.
        self._imported = bytearray(lines)
        setattr(builtins, REACHED, self._imported)

    @contextlib.contextmanager
    def _recorded(self, found: dict[str, bytes], name: str) -> Generator[None]:
        """Record the lines that run meanwhile."""
        outside, inside = getattr(builtins, REACHED), bytearray(self._lines)
        setattr(builtins, REACHED, inside)
        try:
            yield
        finally:
            found[name] = _merged(inside, found.get(name))
            setattr(builtins, REACHED, outside)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        begun, used = time.monotonic(), time.process_time()
        with self._recorded(self.survey.prepared, item.nodeid):
            result = yield
        self.survey.called.setdefault(item.nodeid, bytes(self._lines))
        self.survey.costs[item.nodeid] = time.process_time() - used
        self.survey.seconds[item.nodeid] = time.monotonic() - begun
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self._recorded(self.survey.called, item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
        if request.scope == "function":
            return (yield)
        with self._recorded(self.survey.shared, request.node.nodeid):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.survey.failed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.survey.shared[""] = _merged(self._imported, self.survey.shared.get(""))
        for name in self.survey.failed:
            self.survey.called.pop(name, None)
            self.survey.prepared.pop(name, None)


class Choosing:
    """A plugin that runs the chosen tests, in the given order."""

    def __init__(self, chosen: Sequence[str]) -> None:
        self._rank = {name: rank for rank, name in enumerate(chosen)}

    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.maxfail = 1

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self._rank]
        items[:] = sorted(kept, key=lambda item: self._rank[item.nodeid])


class OnPostgres:
    """A plugin that leaves out what runs on PostgreSQL, except in some files."""

    def __init__(self, files: Collection[str]) -> None:
        self._files = files

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [
            item for item in items if "[postgresql" not in item.nodeid or item.nodeid.partition("::")[0] in self._files
        ]


class Reproducible:
    """A plugin by which Hypothesis draws the same examples each time and keeps none."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutants", parent=settings.default, database=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
        )
        settings.load_profile("mutants")


class _Loader(SourceFileLoader):
    def __init__(self, spec: ModuleSpec, code: CodeType) -> None:
        assert spec.origin is not None
        super().__init__(spec.name, spec.origin)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Finder(PathFinder):
    """Import some modules from code that was compiled here."""

    def __init__(self, codes: Mapping[str, CodeType]) -> None:
        self._codes = codes

    def find_spec(  # type: ignore[override]  # a method of an instance in place of one of the class
        self, name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        if name not in self._codes:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        spec.loader = _Loader(spec, self._codes[name])
        return spec


def preload() -> None:
    """Import what every child needs and no mutation changes."""
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    for name in THIRD_PARTY:
        with contextlib.suppress(ModuleNotFoundError):
            __import__(name)
    import signalbox.v1.contacts_pb2_grpc
    import signalbox.v1.event_definitions_pb2_grpc
    import signalbox.v1.event_ingest_pb2_grpc
    import signalbox.v1.match_stream_pb2_grpc
    import signalbox.v1.projects_pb2_grpc  # noqa: F401

    loaded = [name for name in sys.modules if name.partition(".")[0] in {"server", "registry", "automation"}]
    assert not loaded, f"{loaded} would not be mutated"
    gc.collect()
    gc.freeze()


def run_pytest(files: Sequence[str], trees: Mapping[str, ast.Module], folder: Path, plugins: Sequence[object]) -> int:
    """Run tests of some files with some modules compiled from their trees. In a child: it imports the project."""
    codes = {name: compile(tree, str(ROOT / f"{name.replace('.', '/')}.py"), "exec") for name, tree in trees.items()}
    sys.meta_path.insert(0, _Finder(codes))
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "--tb=short", "--no-header"]
    options += [f"--rootdir={ROOT}", f"--basetemp={folder / 'tmp'}", "-o", "tmp_path_retention_policy=none"]
    return int(pytest.main([*options, *files], plugins=[Reproducible(), *plugins]))


class Child:
    """A forked process that runs one function, its output in a file."""

    def __init__(self, folder: Path, seconds: float, work: Callable[[], int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.latest = time.monotonic() + seconds
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_in_child(folder, work))

    def poll(self) -> int | None:
        """Return the exit code, None while it runs; a process that takes too long is killed and counts as failed."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0 and time.monotonic() < self.latest:
            return None
        # The whole group: what a test has started must not outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if pid == 0:
            os.waitpid(self.pid, 0)
            return TOOK_TOO_LONG
        return os.waitstatus_to_exitcode(status)

    def wait(self) -> int:
        """Return the exit code when it has ended."""
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code


def _in_child(folder: Path, work: Callable[[], int]) -> int:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        code = work()
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        return 70
    return code


def survey(
    files: Sequence[str],
    on_postgres: Collection[str],
    trees: Mapping[str, ast.Module],
    lines: int,
    folder: Path,
    jobs: int,
) -> Survey:
    """Run all tests of some files with instrumented modules, a share of the files in each child.

    Tests that fail without a mutation, on a slow machine, are left out.
    """

    def start(number: int) -> Child:
        share = folder / f"{number}"

        def work() -> int:
            found = Survey()
            code = run_pytest(files[number::jobs], trees, share, [Surveying(found, lines), OnPostgres(on_postgres)])
            (share / "survey").write_bytes(pickle.dumps(found))
            return code

        return Child(share, SURVEY_SECONDS, work)

    merged = Survey()
    for child in [start(number) for number in range(jobs)]:
        if child.wait() not in {ALL_PASSED, SOME_FAILED}:
            output = (child.folder / "output").read_text()
            raise SystemExit(f"The tests do not run without a mutation:\n{output[-6000:]}")
        merged.add(pickle.loads((child.folder / "survey").read_bytes()))  # noqa: S301 - written by the child
    return merged
