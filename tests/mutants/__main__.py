"""Put small faults into the core modules, one at a time, and report those that no test notices.

    python -m tests.mutants [--package NAME] [--path PATH] [--sample N | --all] [--seed N] [--jobs N]

A fault is tried only on lines that the tests run, with the tests that reach it, until one fails: first with the
most specific ones, then with all others. A failed import and a run that takes four times as long count as noticed.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutants import trial
from tests.mutants.focus import PACKAGES, POSTGRES_TESTS, TESTS, equivalent, on_postgres
from tests.mutants.mutations import AT_IMPORT, Instrumented, Mutation, mutations, uses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SAMPLE = 40
SEED = 20_26
FIRST_LOOK = 4.0
"""A mutation is tried with the most specific tests of its line, up to this total cost in seconds of the processor."""

SECOND_LOOK = 20.0
"""What these do not notice is tried with the other tests of the line."""

POSTGRES_LOOK = 6.0
"""The second look includes the same tests on PostgreSQL, where the survey ran on SQLite only."""

PATIENCE = 4.0
GRACE_SECONDS = 20.0


@dataclass
class Look:
    """Tests that run together, and the seconds that they took without a mutation."""

    tests: list[str]
    seconds: float


@dataclass
class Trial:
    """A mutation, the module's tree that it changes, and the looks that are still to be taken at it."""

    mutation: Mutation
    module: str
    tree: ast.Module
    looks: list[Look]


@dataclass
class Figures:
    """The results of one package."""

    package: str
    tried: int = 0
    unreached: int = 0
    known: int = 0
    too_long: int = 0
    survivors: list[Mutation] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return self.tried - len(self.survivors)

    def line(self) -> str:
        share = f"{100 * self.killed / self.tried:.0f} %" if self.tried else "-"
        too_long = f", {self.too_long} of them took too long" if self.too_long else ""
        return f"{self.package:<16} {self.killed:>5} of {self.tried:<5} {share:>6}{too_long}"


def main() -> None:
    """Run from the command line."""
    arguments = _arguments()
    packages = {
        package.name: [path for path in package.modules() if arguments.path in path]
        for package in PACKAGES
        if not arguments.package or package.name in arguments.package
    }
    trial.preload()
    scratch = Path(tempfile.mkdtemp(prefix="signalbox-mutants-"))
    try:
        surveyed = Surveyed([path for paths in packages.values() for path in paths], scratch, arguments.jobs)
        figures = [_try_package(name, paths, surveyed, arguments, scratch) for name, paths in packages.items()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _report(figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n\n")[0])
    names = [package.name for package in PACKAGES]
    parser.add_argument("--package", choices=names, action="append", help="only this package (repeatable)")
    parser.add_argument("--path", default="", help="only modules whose path contains this")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"mutations of each package (default: {SAMPLE})")
    parser.add_argument("--all", action="store_true", help="every mutation")
    parser.add_argument("--seed", type=int, default=SEED, help="the seed by which the sample is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time (default: 2)")
    parser.add_argument("--control", action="store_true", help="change nothing: every trial should survive")
    parser.add_argument("--verbose", action="store_true", help="print every mutation that was tried")
    return parser.parse_args()


class Surveyed:
    """The modules, and which tests reach which of their lines."""

    def __init__(self, paths: Sequence[str], scratch: Path, jobs: int) -> None:
        begun = time.monotonic()
        self._index = trial.Index()
        self.names = {path: path.removesuffix(".py").replace("/", ".") for path in paths}
        self.trees = {path: _parsed(path) for path in paths}
        instrumented = {
            name: Instrumented(trial.REACHED, partial(self._index.add, name)).visit(_parsed(path))
            for path, name in self.names.items()
        }
        self._used: defaultdict[str, set[trial.Line]] = defaultdict(set)
        for path, tree in self.trees.items():
            for name, line in uses(tree):
                self._used[name].add((self.names[path], line))
        self._survey = trial.survey(TESTS, POSTGRES_TESTS, instrumented, len(self._index), scratch / "survey", jobs)
        if self._survey.failed:
            _note(f"left out, because they fail without a mutation: {', '.join(self._survey.failed)}")
        _note(f"{len(self._survey.called)} tests in {time.monotonic() - begun:.0f} s")

    def trial_of(self, mutation: Mutation) -> Trial:
        """Return the trial of a mutation, without looks where no test reaches it."""
        name = self.names[mutation.path]
        looks = _looks(self._tests_of(mutation, name), self._survey)
        return Trial(mutation, name, self.trees[mutation.path], looks)

    def _tests_of(self, mutation: Mutation, name: str) -> list[str]:
        """Return the tests that reach a mutation. What runs at import is reached first by those that use its names."""
        module = self._index.of_module(name)
        if mutation.reached_by != AT_IMPORT:
            return self._survey.reaching(self._index.find([(name, mutation.reached_by)]), module)
        lines = self._index.find(line for bound in mutation.binds for line in self._used[bound])
        return list(dict.fromkeys(self._survey.reaching(lines, module) + self._survey.all_of(module)))


def _try_package(
    name: str, paths: Sequence[str], surveyed: Surveyed, arguments: argparse.Namespace, scratch: Path
) -> Figures:
    figures = Figures(name)
    begun = time.monotonic()
    reached = []
    for path in paths:
        trials = [surveyed.trial_of(mutation) for mutation in mutations(surveyed.trees[path], path)]
        reached += [each for each in trials if each.looks]
        figures.unreached += sum(not each.looks for each in trials)
    trials = _sample(reached, figures, arguments)
    figures.tried = len(trials)
    for done, code in _outcomes(trials, scratch, arguments):
        figures.too_long += code == trial.TOOK_TOO_LONG
        if code == trial.ALL_PASSED:
            figures.survivors.append(done.mutation)
        if code == trial.ALL_PASSED or arguments.verbose:
            outcome = "survived" if code == trial.ALL_PASSED else f"killed ({code})"
            _note(f"  {outcome}: {done.mutation.place}")
    _note(f"{figures.line()} in {time.monotonic() - begun:.0f} s")
    return figures


def _looks(tests: list[str], survey: trial.Survey) -> list[Look]:
    """Return the first look at a mutation and the second one, if there are more tests."""
    first = _within(FIRST_LOOK, tests, survey.costs)
    later = _within(SECOND_LOOK, [name for name in tests if name not in set(first)], survey.costs)
    of_twins = {on_postgres(name): name for name in tests if on_postgres(name) not in survey.costs}
    later += _within(POSTGRES_LOOK, list(of_twins), {twin: survey.costs[name] for twin, name in of_twins.items()})
    return [
        Look(chosen, sum(survey.seconds[of_twins.get(name, name)] for name in chosen))
        for chosen in (first, later)
        if chosen
    ]


def _within(limit: float, tests: list[str], costs: dict[str, float]) -> list[str]:
    """Return the first tests that stay within a total cost, at least one."""
    kept: list[str] = []
    room = limit
    for name in tests:
        if costs[name] <= room or not kept:
            kept.append(name)
            room -= costs[name]
    return kept


def _parsed(path: str) -> ast.Module:
    return ast.parse((trial.ROOT / path).read_text())


def _sample(trials: list[Trial], figures: Figures, arguments: argparse.Namespace) -> list[Trial]:
    known = equivalent()
    candidates = [each for each in trials if each.mutation.name not in known]
    figures.known = len(trials) - len(candidates)
    if arguments.all or len(candidates) <= arguments.sample:
        return candidates
    return random.Random(arguments.seed).sample(candidates, arguments.sample)  # noqa: S311 - a sample, no secret


def _outcomes(trials: list[Trial], scratch: Path, arguments: argparse.Namespace) -> Iterator[tuple[Trial, int]]:
    waiting = trials[::-1]
    running: list[tuple[Trial, trial.Child]] = []
    numbers = count()
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            each = waiting.pop()
            running.append((each, _start(each, scratch / f"{next(numbers)}", arguments.control)))
        for each, child in list(running):
            if (code := child.poll()) is not None:
                running.remove((each, child))
                shutil.rmtree(child.folder, ignore_errors=True)
                if code == trial.ALL_PASSED and each.looks[1:]:
                    waiting.append(replace(each, looks=each.looks[1:]))
                else:
                    yield each, code
        time.sleep(0.01)


def _start(each: Trial, folder: Path, control: bool) -> trial.Child:
    look = each.looks[0]

    def work() -> int:
        if not control:
            each.mutation.apply()
        files = list(dict.fromkeys(name.partition("::")[0] for name in look.tests))
        return trial.run_pytest(files, {each.module: each.tree}, folder, [trial.Choosing(look.tests)])

    return trial.Child(folder, GRACE_SECONDS + PATIENCE * look.seconds, work)


def _report(figures: list[Figures]) -> None:
    _note("\nSurvivors")
    for each in figures:
        for mutation in each.survivors:
            _note(f"  {mutation.place}")
    _note("\nKilled")
    for each in figures:
        _note(f"  {each.line()}   ({each.unreached} not reached, {each.known} known to change nothing)")
    everything = Figures("all", sum(each.tried for each in figures))
    everything.survivors = [mutation for each in figures for mutation in each.survivors]
    _note(f"  {everything.line()}")


def _note(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
