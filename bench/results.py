"""The results of a benchmark: values of subjects, ratios between them, their table and their JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RESULTS = Path(__file__).parent / "results" / "results.json"
"""The results that the documentation shows."""

WIDTH = 56
"""The width of the first column of a table."""


class Failed(Exception):
    """The benchmark cannot continue, or its measurements are void."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of two subjects and its target: at least `wanted`, or at most `wanted` if `at_most` is set.

    A target with `at_most` is also met if the subject's own value is at most `enough`.
    """

    subject: str
    base: str
    wanted: float | None = None
    at_most: bool = False
    enough: float | None = None

    @property
    def title(self) -> str:
        """The names of both."""
        return f"{self.subject} / {self.base}"

    def of_rounds(self, values: Mapping[str, Sequence[float]]) -> list[float]:
        """Compare round by round: both sides of a round were measured one right after the other."""
        return [one / other for one, other in zip(values[self.subject], values[self.base], strict=True)]

    def target(self) -> str:
        """Return the target in words."""
        if self.wanted is None:
            return ""
        sign = "<=" if self.at_most else ">="
        return f"{sign} {self.wanted:g}" + ("" if self.enough is None else f" or <= {self.enough:g}")

    def met(self, values: Mapping[str, Sequence[float]]) -> bool:
        """Return whether the target is met."""
        if self.wanted is None:
            return True
        reached = median(self.of_rounds(values))
        if not self.at_most:
            return reached >= self.wanted
        return reached <= self.wanted or (self.enough is not None and median(values[self.subject]) <= self.enough)


@dataclass(frozen=True)
class Result:
    """The values of a group's subjects, one for each round, and the ratios between them.

    `skipped` has a line for each peer that is not installed; `measured` is the commit and the day.
    """

    title: str
    unit: str
    values: Mapping[str, Sequence[float]]
    ratios: Sequence[Ratio]
    skipped: Sequence[str] = ()
    measured: str = ""

    def compared(self) -> list[Ratio]:
        """Return the ratios whose subjects were measured."""
        return [ratio for ratio in self.ratios if ratio.subject in self.values and ratio.base in self.values]

    def table(self) -> str:
        """Write values and ratios as aligned columns."""
        lines = [_line(f"{self.title} ({self.unit})", ("median", "min", "max"))]
        lines += [_line(f"  {subject}", spread(values)) for subject, values in self.values.items()]
        for ratio in self.compared():
            missed = "" if ratio.met(self.values) else "  missed"
            figures = spread(ratio.of_rounds(self.values))
            lines.append(_line(f"  {ratio.subject} /", ()) if len(ratio.title) > WIDTH - 4 else "")
            title = ratio.base if lines[-1] else ratio.title
            lines.append(_line(f"  {'    ' if lines[-1] else ''}{title}", figures) + f"  {ratio.target()}{missed}")
        return "\n".join([line.rstrip() for line in lines if line] + [f"  skipped: {line}" for line in self.skipped])

    def missed(self) -> list[str]:
        """Return a line for each ratio that misses its target."""
        return [
            f"{ratio.title} is {median(ratio.of_rounds(self.values)):.2f}; the target is {ratio.target()}"
            for ratio in self.compared()
            if not ratio.met(self.values)
        ]


def spread(values: Sequence[float]) -> tuple[str, str, str]:
    """Return median, minimum and maximum in words."""
    return figure(median(values)), figure(min(values)), figure(max(values))


def figure(value: float) -> str:
    """Write a value with three digits or so."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def merged(kept: Sequence[Result], measured: Sequence[Result]) -> list[Result]:
    """Return the results with those of the same groups replaced, in the order in which the groups came first."""
    results = {result.title: result for result in (*kept, *measured)}
    return list(results.values())


def to_json(machine: str, results: Iterable[Result]) -> str:
    """Return the results as JSON."""
    document = {
        "machine": machine,
        "groups": [asdict(result) for result in results],
    }
    return json.dumps(document, indent=1) + "\n"


def from_json(text: str) -> tuple[dict[str, Any], list[Result]]:
    """Return the document, and the results in it."""
    document: dict[str, Any] = json.loads(text)
    results = [
        Result(
            group["title"],
            group["unit"],
            group["values"],
            tuple(Ratio(**ratio) for ratio in group["ratios"]),
            tuple(group["skipped"]),
            group["measured"],
        )
        for group in document["groups"]
    ]
    return document, results


def _line(title: str, figures: Sequence[str]) -> str:
    return f"{title:<{WIDTH}}" + "".join(f"{value:>10}" for value in figures)
