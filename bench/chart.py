"""The chart of the results: a bar for each ratio that has a target, as long as what was reached of the target."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.results import Result

ROW, TITLES, BARS, FIGURES = 22, 560, 300, 90
LONGEST = 1.5
"""Longer bars are cut off; the target is at 1."""

MET, MISSED = "#2a7f62", "#c05746"


def chart(results: Sequence[Result]) -> str:
    """Return the chart as SVG."""
    bars = [bar for result in results for bar in _bars(result)]
    width, height = TITLES + BARS + FIGURES, ROW * (len(bars) + 2)
    target = TITLES + BARS / LONGEST
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
            "<style>text { font-size: 13px }</style>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *(_row(number, *bar) for number, bar in enumerate(bars, 1)),
            f'<line x1="{target}" x2="{target}" y1="{ROW / 2}" y2="{height - ROW / 2}" stroke="black"/>',
            f'<text x="{target + 4}" y="{ROW * 0.7}">target</text>',
            "</svg>\n",
        ]
    )


def _bars(result: Result) -> Iterator[tuple[str, str, float, bool]]:
    """Yield the title of each ratio, what was reached, how much that is of the target, and whether it is met."""
    for ratio in result.compared():
        if ratio.wanted is not None:
            reached = median(ratio.of_rounds(result.values))
            share = reached / ratio.wanted
            if ratio.at_most:
                shares = [1 / share]
                if ratio.enough is not None:
                    shares.append(ratio.enough / median(result.values[ratio.subject]))
                share = max(shares)
            yield ratio.title, f"{reached:.2f}", share, ratio.met(result.values)


def _row(number: int, title: str, reached: str, share: float, met: bool) -> str:
    top, length = number * ROW, min(share, LONGEST) / LONGEST * BARS
    return (
        f'<text x="{TITLES - 8}" y="{top + 15}" text-anchor="end">{escape(title)}</text>'
        f'<rect x="{TITLES}" y="{top + 3}" width="{length:.1f}" height="{ROW - 6}" fill="{MET if met else MISSED}"/>'
        f'<text x="{TITLES + BARS + 8}" y="{top + 15}">{reached}</text>'
    )
