"""What was measured: samples with the time at which they began, and figures of those of a period."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OK: Final = "OK"
UNANSWERED: Final = "UNANSWERED"

SEND, DELIVERY, SILENCE, HEALTH, READY, LATE = "send", "delivery", "silence", "/healthz", "/readyz", "late"
MOST_SECONDS: Final = 60
PROBES: Final = (HEALTH, READY)


class Sample(NamedTuple):
    """One measurement. `at` is monotonic time, which all processes of a machine share; `outcome` is OK or a reason."""

    kind: str
    at: float
    seconds: float
    outcome: str = OK


class Period(NamedTuple):
    """A period of monotonic time."""

    begin: float
    end: float

    def holds(self, moment: float) -> bool:
        return self.begin <= moment < self.end


@dataclass(frozen=True)
class Samples:
    """The samples of one observer."""

    all: Sequence[Sample]

    def seconds(self, period: Period, *kinds: str, answered: bool = False) -> list[float]:
        """Return how long what began in a period took, the quickest first; `answered` leaves out what was refused."""
        return sorted(each.seconds for each in self.within(period, *kinds) if each.outcome == OK or not answered)

    def refused(self, period: Period, *kinds: str) -> Counter[str]:
        """Count by reason what began in a period and was not answered as it should."""
        return Counter(each.outcome for each in self.within(period, *kinds) if each.outcome != OK)

    def within(self, period: Period, *kinds: str) -> Iterable[Sample]:
        """Yield the samples of some kinds that began in a period."""
        return (each for each in self.all if each.kind in kinds and period.holds(each.at))

    def first_refusal(self, after: float, *kinds: str) -> float | None:
        """Return the seconds after a moment at which the first refusal arrived, of what began after it."""
        period = Period(after, math.inf)
        ends = (each.at + each.seconds for each in self.within(period, *kinds) if each.outcome != OK)
        return min((end - after for end in ends), default=None)

    def last_refusal(self, after: float, *kinds: str) -> float:
        """Return the seconds after a moment at which the last refusal arrived; 0 if there was none."""
        period = Period(after, math.inf)
        ends = (each.at + each.seconds for each in self.within(period, *kinds) if each.outcome != OK)
        return max((end - after for end in ends), default=0.0)

    def normal_after(self, end: float, allowed: float, *kinds: str) -> float:
        """Return the seconds until nine of ten that begin within a second are quick again."""
        for second in range(MOST_SECONDS):
            found = list(self.within(Period(end + second, end + second + 1), *kinds))
            quick = sum(each.seconds <= allowed and each.outcome == OK for each in found)
            if quick >= 0.9 * len(found) > 0:
                return second
        return math.inf


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest number that is not below a share of some ordered numbers; not a number of none."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan
