"""Put small faults into the core modules, one at a time, and report those that no focused test notices.

    python -m tests.mutants [--package NAME] [--path PATH] [--sample N | --all] [--seed N] [--jobs N]

A fault is tried only on lines that the focused tests run, with the tests that reach it most directly, until one fails.
A failed import and a run that takes four times as long count as noticed.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutants import trial
from tests.mutants.focus import FOCUSES, Focus, equivalent
from tests.mutants.mutations import AT_IMPORT, Instrumented, Mutation, mutations

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = 40
SEED = 20_26
TRIAL_SECONDS = 20.0
"""A mutation is tried with the tests that reach it most directly, up to this total time, and with the longest one."""

PATIENCE = 4.0
GRACE_SECONDS = 20.0


@dataclass
class Trial:
    """A mutation, the module's tree that it changes, and the tests that reach it."""

    mutation: Mutation
    module: str
    tree: ast.Module
    tests: list[str]
    seconds: float


@dataclass
class Figures:
    """The results of one package."""

    package: str
    tried: int = 0
    unreached: int = 0
    known: int = 0
    survivors: list[Mutation] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return self.tried - len(self.survivors)

    def line(self) -> str:
        share = f"{100 * self.killed / self.tried:.0f} %" if self.tried else "-"
        return f"{self.package:<16} {self.killed:>5} of {self.tried:<5} {share:>6}"


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
    parser.add_argument("--verbose", action="store_true", help="print every mutation that was tried")
    return parser.parse_args()


def _try_focus(focus: Focus, arguments: argparse.Namespace, scratch: Path) -> Figures:
    figures = Figures(focus.package)
    begun = time.monotonic()
    trials = _sample(list(_reached(focus, arguments, scratch, figures)), figures, arguments)
    figures.tried = len(trials)
    _note(f"{focus.package}: {len(trials)} mutations; the tests alone took {time.monotonic() - begun:.0f} s")
    for done, code in _outcomes(trials, focus, scratch, arguments.jobs):
        if code == trial.ALL_PASSED:
            figures.survivors.append(done.mutation)
        if code == trial.ALL_PASSED or arguments.verbose:
            outcome = "survived" if code == trial.ALL_PASSED else f"killed ({code})"
            _note(f"  {outcome} {len(done.tests)} tests: {done.mutation.place}")
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
    for path in paths:
        for mutation in mutations(parsed[path], path):
            reached_by = mutation.reached_by
            tests = survey.all_of(names[path]) if reached_by == AT_IMPORT else survey.reaching(names[path], reached_by)
            tests = _within(tests, survey.seconds)
            figures.unreached += not tests
            if tests:
                yield Trial(mutation, names[path], parsed[path], tests, sum(survey.seconds[name] for name in tests))


def _within(tests: list[str], seconds: dict[str, float]) -> list[str]:
    """Return the first tests that fit into TRIAL_SECONDS together, and last of all the longest of the others."""
    kept: list[str] = []
    room = TRIAL_SECONDS
    for name in tests:
        if seconds[name] <= room:
            kept.append(name)
            room -= seconds[name]
    left_out = [name for name in tests if name not in kept]
    return kept + sorted(left_out, key=seconds.__getitem__)[-1:]


def _copy(path: str) -> ast.Module:
    return ast.parse((trial.ROOT / path).read_text())


def _sample(trials: list[Trial], figures: Figures, arguments: argparse.Namespace) -> list[Trial]:
    known = equivalent()
    candidates = [each for each in trials if each.mutation.name not in known]
    figures.known = len(trials) - len(candidates)
    if arguments.all or len(candidates) <= arguments.sample:
        return candidates
    return random.Random(arguments.seed).sample(candidates, arguments.sample)  # noqa: S311 - a sample, no secret


def _outcomes(trials: list[Trial], focus: Focus, scratch: Path, jobs: int) -> Iterator[tuple[Trial, int]]:
    waiting = list(enumerate(trials))[::-1]
    running: list[tuple[Trial, trial.Child]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            number, each = waiting.pop()
            running.append((each, _start(each, scratch / f"{number}")))
        for each, child in list(running):
            if (code := child.poll()) is not None:
                running.remove((each, child))
                shutil.rmtree(child.folder, ignore_errors=True)
                yield each, code
        time.sleep(0.01)


def _start(each: Trial, folder: Path) -> trial.Child:
    def work() -> int:
        each.mutation.apply()
        files = list(dict.fromkeys(name.partition("::")[0] for name in each.tests))
        return trial.run_pytest(files, {each.module: each.tree}, folder, [trial.Choosing(each.tests)])

    return trial.Child(folder, GRACE_SECONDS + PATIENCE * each.seconds, work)


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
