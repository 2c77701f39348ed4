"""The figures of a row, their targets, and the line that shows both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.siege.samples import DELIVERY, LATE, PROBES, SEND, SILENCE, Period, Samples, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Bounds:
    """What a neighbour and a health probe may feel of an attack, in seconds, and what it may take of memory, in MiB.

    A neighbour is held up if an answer takes more than `times` the time without the attack, and more than `idle_times`
    that beside a server that does nothing (`floor`). `timers` is for timers and the scheduler, which alone make a quick
    answer late now and then. `quantile` is the one that is compared, p99 or p50.
    """

    quantile: str = "p99"

    times: float = 5.0
    idle_times: float = 1.25
    timers: float = 0.025
    probe: float = 0.2
    silence: float = 2.0
    back: float = 3.0
    peak_growth: int = 1_024
    kept_growth: int = 256

    def allowed(self, alone: float) -> float:
        """Return the time that is allowed, by that without the attack."""
        return max(self.times * alone, self.timers)

    def allowed_by(self, floor: Floor | None) -> float:
        """Return the time that is allowed, by that beside a server that does nothing; 0 if there is none."""
        return 0.0 if floor is None else self.idle_times * float(getattr(floor, self.quantile))


STRICT: Final = Bounds()
GENEROUS: Final = Bounds("p50", times=20.0, timers=3.0, probe=5.0, silence=8.0, back=3.0)
"""What holds on a machine with other work too, which makes some answers late, but not half of them."""


@dataclass(frozen=True)
class Floor:
    """What the neighbour of a server that does nothing feels of the same attack when it sends, in seconds."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Felt:
    """What the neighbour and the probe felt in a period, in seconds; `late` is how late the observer itself was."""

    send_p50: float
    send_p99: float
    delivery_p50: float
    delivery_p99: float
    probe: float
    silence: float
    late: float
    refused: Counter[str]

    @classmethod
    def of(cls, samples: Samples, period: Period) -> Felt:
        """Take the figures of a period."""
        sends, probes = samples.seconds(period, SEND, answered=True), samples.seconds(period, *PROBES)
        deliveries = samples.seconds(period, DELIVERY, answered=True)
        return cls(
            quantile(sends, 0.50),
            quantile(sends, 0.99),
            quantile(deliveries, 0.50),
            quantile(deliveries, 0.99),
            quantile(probes, 1),
            quantile(samples.seconds(period, SILENCE), 1),
            quantile(samples.seconds(period, LATE), 0.99),
            samples.refused(period, SEND, DELIVERY, *PROBES),
        )


@dataclass(frozen=True)
class Resident:
    """The server's memory in MiB: before an attack, the most, and afterwards, reached after a number of seconds."""

    before: int
    peak: int
    after: int
    seconds: float


@dataclass
class Report:
    """What came of one row. `facts` are sentences, and so are `misses`, what was wanted and is not so.

    `excuses` are misses that a server which does nothing has, too. `back` is after how many seconds without the attack
    the neighbour felt nothing of it.
    """

    row: str
    what: str
    alone: Felt | None = None
    during: Felt | None = None
    floor: Floor | None = None
    resident: Resident | None = None
    back: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    facts: list[str] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)

    def check(self, bounds: Bounds) -> None:
        """Note what the neighbour and the probe should not have felt, and memory that should not have been taken."""
        if self.alone and self.during:
            self.misses += _misses(self.during, bounds)
            late, excused = self._late(bounds)
            self.misses += late
            self.excuses += excused
            if self.back > bounds.back:
                self.misses.append(f"not as before {bounds.back:.0f} s after the attack")
        if self.resident:
            self.misses += _memory_misses(self.resident, bounds)
        self.check_answers()

    def check_answers(self) -> None:
        """Note refusals that neither give a reason nor the time after which to repeat the call."""
        if unhelpful := sorted(each for each in self.answers if "without reason" in each or "(no RetryInfo)" in each):
            self.misses.append(f"unhelpful refusals: {', '.join(unhelpful)}")

    def line(self) -> str:
        """Return the row of the table."""
        cells = [self.row, self.what, *self._felt(), self._memory(), _counts(self.answers), "; ".join(self._facts())]
        return f"| {' | '.join(cells)} | {self.verdict()} |"

    def verdict(self) -> str:
        """Return what is not as wanted, or on what account it held."""
        if self.misses:
            return "; ".join([*self.misses, *self.excuses])
        return f"held by the floor alone: {'; '.join(self.excuses)}" if self.excuses else "held"

    def _late(self, bounds: Bounds) -> tuple[list[str], list[str]]:
        """Return the answers to the neighbour that were late: of no excuse, and of those excused by the floor."""
        assert self.alone is not None
        assert self.during is not None
        misses: list[str] = []
        excuses: list[str] = []
        by_floor = bounds.allowed_by(self.floor)
        for what in ("send", "delivery"):
            name = f"{what}_{bounds.quantile}"
            felt, allowed = getattr(self.during, name), bounds.allowed(getattr(self.alone, name))
            # Not a number is what never came.
            if not felt <= allowed:
                late = f"{name.replace('_', ' ')} {_ms(felt)} ms, wanted {_ms(allowed)} ms"
                late += f" or by the floor {_ms(by_floor)} ms" if by_floor else ""
                (excuses if felt <= by_floor else misses).append(late)
        return misses, excuses

    def _facts(self) -> list[str]:
        return [*self.facts, f"as before after {self.back:.0f} s"] if self.during else self.facts

    def _felt(self) -> list[str]:
        alone, during = self.alone, self.during
        if alone is None or during is None:
            return ["", "", "", "", "", ""]
        return [
            f"{_ms(alone.send_p50)} / {_ms(alone.send_p99)} -> {_ms(during.send_p50)} / {_ms(during.send_p99)}",
            f"{_ms(self.floor.p50)} / {_ms(self.floor.p99)}" if self.floor else "",
            _counts(during.refused) or "none",
            f"{_ms(alone.delivery_p99)} -> {_ms(during.delivery_p99)}",
            f"{_ms(alone.probe)} -> {_ms(during.probe)}",
            f"{_ms(during.late)}",
        ]

    def _memory(self) -> str:
        if (found := self.resident) is None:
            return ""
        return f"{found.before} / {found.peak} / {found.after} in {found.seconds:.0f} s"


HEADER: Final = """\
| row | what was done | send p50 / p99, ms: alone -> attacked | floor, ms \
| refused | delivery p99, ms | probe's worst, ms | observer late p99, ms \
| RSS before / peak / after, MiB | what the attacker was answered | facts | verdict |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def _misses(during: Felt, bounds: Bounds) -> Iterator[str]:
    if during.refused:
        yield f"the neighbour was refused: {_counts(during.refused)}"
    if not during.probe <= bounds.probe:
        yield f"the probe waited {_ms(during.probe)} ms, wanted {_ms(bounds.probe)} ms"
    if not during.silence <= bounds.silence:
        yield f"the consumer heard nothing for {_ms(during.silence)} ms, wanted {_ms(bounds.silence)} ms"


def _memory_misses(resident: Resident, bounds: Bounds) -> Iterator[str]:
    if (grown := resident.peak - resident.before) > bounds.peak_growth:
        yield f"{grown} MiB more memory at the peak, wanted {bounds.peak_growth} MiB"
    if (kept := resident.after - resident.before) > bounds.kept_growth:
        yield f"{kept} MiB more memory afterwards, wanted {bounds.kept_growth} MiB"


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counted.most_common())


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1_000
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:,.0f}"
