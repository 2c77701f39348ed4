"""Write the results into the documentation: `python -m bench.page`.

The tables of docs/performance.md and of the README, between their markers, and the chart are made from
bench/results/results.json, which `make bench` writes.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.all import GROUPS
from bench.chart import chart
from bench.results import RESULTS, figure, from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.results import Ratio, Result

ROOT = Path(__file__).parent.parent
CHART = RESULTS.with_suffix(".svg")
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"

HEAD = ("| compared | measured | ratio | target | |", "|---|---|---|---|---|")

IN_README = (
    ("SendEvent", "no-op gRPC server"),
    ("SendEvents of 500", "bare loop"),
    ("POST /v1/events/send", "FastAPI + SQLAlchemy + aiosqlite by hand"),
    ("SendEvent among 10,000 automations, 10 match", "SendEvent among the 10 alone"),
    ("ConsumeMatches, window 1,000", "JetStream, no fsync, ack confirmed"),
)


def tables(machine: str, results: Sequence[Result], groups: Iterable[str]) -> str:
    """Return the tables of the page, one for each result, and the titles of the groups without one."""
    parts = [f"Measured on: {machine}."]
    for result in results:
        lines = [
            f"**{result.title}** ({result.unit}; medians of {_rounds(result)} rounds, {result.measured})",
            "",
            *HEAD,
        ]
        lines += [_row(result, ratio) for ratio in result.compared()]
        parts.append("\n".join(lines))
        if result.skipped:
            parts.append("\n".join(f"Skipped: {line}." for line in result.skipped))
    measured = {result.title for result in results}
    if missing := [title for title in groups if title not in measured]:
        parts.append(f"Not measured here: {'; '.join(missing)}.")
    return "\n\n".join(parts)


def readme_table(results: Iterable[Result]) -> str:
    """Return the table of the README."""
    rows = {(ratio.subject, ratio.base): _row(result, ratio) for result in results for ratio in result.compared()}
    return "\n".join([*HEAD, *(rows[pair] for pair in IN_README if pair in rows)])


def with_results(text: str, table: str) -> str:
    """Return the text of a page with another table between the markers."""
    before, begin, rest = text.partition("<!-- results -->\n")
    _, end, after = rest.partition("\n<!-- end -->")
    assert end, "the page has no markers"
    return f"{before}{begin}{table}{end}{after}"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each file that is made from the results, with its text."""
    document, results = from_json(RESULTS.read_text(encoding="utf-8"))
    titles = [group.title for group in GROUPS]
    yield PAGE, with_results(PAGE.read_text(encoding="utf-8"), tables(document["machine"], results, titles))
    yield README, with_results(README.read_text(encoding="utf-8"), readme_table(results))
    yield CHART, chart(results)


def _rounds(result: Result) -> int:
    return max(len(values) for values in result.values.values())


def _row(result: Result, ratio: Ratio) -> str:
    ratios = ratio.of_rounds(result.values)
    sides = " / ".join(figure(median(result.values[name])) for name in (ratio.subject, ratio.base))
    verdict = "" if ratio.wanted is None else "met" if ratio.met(result.values) else "**missed**"
    target = ratio.target().replace("<=", "≤").replace(">=", "≥")
    return f"| {ratio.title} | {sides} | {figure(median(ratios))} | {target} | {verdict} |"


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
