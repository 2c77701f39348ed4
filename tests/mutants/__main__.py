"""Put small faults into the core modules, one at a time, and report those that no focused test notices.

    python -m tests.mutants [--package NAME] [--path PATH] [--sample N | --all] [--seed N] [--jobs N]

A fault is tried only on lines that the focused tests run, with the tests that reach it, until one fails: first with the
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
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutants import trial
from tests.mutants.focus import FOCUSES, Focus, equivalent, on_postgres
from tests.mutants.mutations import AT_IMPORT, Instrumented, Mutation, mutations, uses

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = 40
SEED = 20_26
FIRST_LOOK = 20.0
"""A mutation is tried with the most specific tests of its line, up to this total time."""

SECOND_LOOK = 60.0
"""What these do not notice is tried with the other tests of the line."""

POSTGRES_LOOK = 30.0
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
    focuses = [each for each in FOCUSES if arguments.package in {None, each.package}]
    trial.preload()
    scratch = Path(tempfile.mkdtemp(prefix="signalbox-mutants-"))
    try:
        figures = [_try_focus(focus, arguments, scratch) for focus in focuses]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _report(figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--package", choices=[each.package for each in FOCUSES], help="only this package")
    parser.add_argument("--path", default="", help="only modules whose path contains this")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"mutations of each package (default: {SAMPLE})")
    parser.add_argument("--all", action="store_true", help="every mutation")
    parser.add_argument("--seed", type=int, default=SEED, help="the seed by which the sample is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time (default: 2)")
    parser.add_argument("--control", action="store_true", help="change nothing: every trial should survive")
    parser.add_argument("--verbose", action="store_true", help="print every mutation that was tried")
    return parser.parse_args()


def _try_focus(focus: Focus, arguments: argparse.Namespace, scratch: Path) -> Figures:
    figures = Figures(focus.package)
    begun = time.monotonic()
    trials = _sample(list(_reached(focus, arguments, scratch, figures)), figures, arguments)
    figures.tried = len(trials)
    _note(f"{focus.package}: {len(trials)} mutations; the tests alone took {time.monotonic() - begun:.0f} s")
    for done, code in _outcomes(trials, scratch, arguments):
        figures.too_long += code == trial.TOOK_TOO_LONG
        if code == trial.ALL_PASSED:
            figures.survivors.append(done.mutation)
        if code == trial.ALL_PASSED or arguments.verbose:
            outcome = "survived" if code == trial.ALL_PASSED else f"killed ({code})"
            _note(f"  {outcome}: {done.mutation.place}")
    _note(f"{figures.line()} in {time.monotonic() - begun:.0f} s")
    return figures


def _reached(focus: Focus, arguments: argparse.Namespace, scratch: Path, figures: Figures) -> Iterator[Trial]:
    """Find the mutations of lines that the focused tests reach."""
    paths = [path for path in focus.modules() if arguments.path in path]
    names = {path: path.removesuffix(".py").replace("/", ".") for path in paths}
    parsed = {path: ast.parse((trial.ROOT / path).read_text()) for path in paths}
    instrumented = {names[path]: Instrumented(names[path], trial.RECORD).visit(_copy(path)) for path in paths}
    survey = trial.survey_in_child(focus.files(), instrumented, scratch / "survey", postgresql=focus.postgresql)
    if survey.failed:
        _note(f"  left out, because they fail without a mutation: {', '.join(survey.failed)}")
    used: defaultdict[str, set[trial.Line]] = defaultdict(set)
    for path in paths:
        for name, line in uses(parsed[path]):
            used[name].add((names[path], line))
    for path in paths:
        for mutation in mutations(parsed[path], path):
            tests = _tests_of(mutation, names[path], used, survey)
            figures.unreached += not tests
            if tests:
                yield Trial(mutation, names[path], parsed[path], _looks(tests, focus, survey.seconds))


def _tests_of(mutation: Mutation, module: str, used: dict[str, set[trial.Line]], survey: trial.Survey) -> list[str]:
    """Return the tests that reach a mutation. What runs at import is reached first by those that use its names."""
    if mutation.reached_by != AT_IMPORT:
        return survey.reaching([(module, mutation.reached_by)])
    lines = [line for name in mutation.binds for line in used[name]]
    return list(dict.fromkeys(survey.reaching(lines) + survey.all_of(module)))


def _looks(tests: list[str], focus: Focus, seconds: dict[str, float]) -> list[Look]:
    """Return the first look at a mutation and the second one, if there are more tests."""
    first = _within(FIRST_LOOK, tests, seconds)
    later = _within(SECOND_LOOK, [name for name in tests if name not in set(first.tests)], seconds)
    if not focus.postgresql:
        twins = {on_postgres(name): seconds[name] for name in tests if on_postgres(name) != name}
        also = _within(POSTGRES_LOOK, list(twins), twins)
        later = Look(later.tests + also.tests, later.seconds + also.seconds)
    return [look for look in (first, later) if look.tests]


def _within(limit: float, tests: list[str], seconds: dict[str, float]) -> Look:
    """Return the first tests that fit into a time together, at least one."""
    kept: list[str] = []
    room = limit
    for name in tests:
        if seconds[name] <= room or not kept:
            kept.append(name)
            room -= seconds[name]
    return Look(kept, limit - room)


def _copy(path: str) -> ast.Module:
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
