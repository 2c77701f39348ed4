"""The subscriptions of a server's database: how far each lags, what it owes, and how long its deliveries take.

What the tables say is read shortly before the metrics are (`server.background.statistics`), deliveries are counted as
they happen. Subscriptions after MAX_SERIES others are reported together, as OTHER: their counts are summed, of their
lags in seconds the longest one is reported.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from automation.subscriptions.values import SettleOutcome
from server.metrics.series import (
    DELIVERY_SECONDS,
    MAX_SERIES,
    OTHER,
    PROJECT_LABEL,
    SUBSCRIPTION_LABEL,
    Observations,
    bucket_names,
    cumulative,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry, Metric

    from automation.subscriptions.values import Delivery, SettleResult

ACKNOWLEDGED: Final = SettleOutcome.ACKNOWLEDGED

_LABELS = (PROJECT_LABEL, SUBSCRIPTION_LABEL)
_OTHERS = (OTHER, OTHER)
_SECOND: Final = 1_000_000

MAX_LEASES: Final = 20_000
"""The leases of a subscription whose beginning is kept. Those that are not acknowledged stay until others come."""


class SubscriptionState(NamedTuple):
    """A subscription as its metrics show it."""

    key: int
    project_id: str
    name: str
    lag_positions: int
    lag_seconds: float
    outstanding: int
    retrying: int
    parked: int


class DeliveryTimes:
    """How long deliveries of one subscription took: from the recording to the lease, and to the acknowledgement."""

    __slots__ = ("_leased_at", "acknowledged", "delivered")

    def __init__(self) -> None:
        self.delivered = Observations(DELIVERY_SECONDS)
        self.acknowledged = Observations(DELIVERY_SECONDS)
        self._leased_at: dict[str, float] = {}

    def leased(self, deliveries: Sequence[Delivery], now: int) -> None:
        """Add leases that a step has granted at `now`, in microseconds."""
        began, leased_at, observe = perf_counter(), self._leased_at, self.delivered.observe
        for delivery in deliveries:
            leased_at[delivery.id] = began
            if delivery.attempt == 1:
                observe(max(0, now - delivery.match.matched_at) / _SECOND)
        while len(leased_at) > MAX_LEASES:
            del leased_at[next(iter(leased_at))]

    def settled(self, results: Sequence[Sequence[SettleResult]]) -> None:
        """Add durable results of a step. A delivery counts once, when it is first acknowledged."""
        now, pop, observe = perf_counter(), self._leased_at.pop, self.acknowledged.observe
        for settlement in results:
            for result in settlement:
                if result.outcome is ACKNOWLEDGED and (began := pop(result.delivery_id, None)) is not None:
                    observe(now - began)


class SubscriptionMetrics(Collector):
    """The numbers of the subscriptions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._states: Sequence[SubscriptionState] = ()
        self._times: dict[int, DeliveryTimes] = {}
        registry.register(self)

    def times(self, key: int) -> DeliveryTimes:
        """Return the times of a subscription, which its deliveries add to."""
        return self._times.setdefault(key, DeliveryTimes())

    def update(self, states: Sequence[SubscriptionState]) -> None:
        """Set the states of all subscriptions, in the order in which they were created."""
        deleted = {state.key for state in self._states} - {state.key for state in states}
        self._states = states
        for key in deleted:
            self._times.pop(key, None)

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without numbers."""
        yield from _gauges({})
        yield from _histograms({})

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        states, times = self._states, self._times.copy()
        names = {state.key: (state.project_id, state.name) for state in states[:MAX_SERIES]}
        shown = {(state.project_id, state.name): state for state in states[:MAX_SERIES]}
        if others := states[MAX_SERIES:]:
            shown[_OTHERS] = _together(others)
        yield from _gauges(shown)
        by_label: dict[tuple[str, str], list[DeliveryTimes]] = {}
        for key, each in times.items():
            by_label.setdefault(names.get(key, _OTHERS), []).append(each)
        yield from _histograms(by_label)


def _together(states: Sequence[SubscriptionState]) -> SubscriptionState:
    return SubscriptionState(
        key=0,
        project_id=OTHER,
        name=OTHER,
        lag_positions=sum(state.lag_positions for state in states),
        lag_seconds=max(state.lag_seconds for state in states),
        outstanding=sum(state.outstanding for state in states),
        retrying=sum(state.retrying for state in states),
        parked=sum(state.parked for state in states),
    )


_GAUGES = (
    ("signalbox_subscription_lag_positions", "Positions of the match log after the ack floor of a subscription."),
    ("signalbox_subscription_lag_seconds", "Age of the earliest match after the ack floor, 0 if there is none."),
    ("signalbox_subscription_outstanding", "Matches under a lease of a consumer, counted up to 10,000."),
    ("signalbox_subscription_retrying", "Matches that wait for another attempt, counted up to 10,000."),
    ("signalbox_subscription_parked", "Parked matches, counted up to 10,000."),
)
_HISTOGRAMS = (
    (
        "signalbox_delivery_seconds",
        "Time from the recording of a match until a consumer of this server got it, without retries.",
    ),
    ("signalbox_acknowledgement_seconds", "Time from a lease by this server to its durable acknowledgement."),
)


def _gauges(shown: dict[tuple[str, str], SubscriptionState]) -> Iterator[Metric]:
    for place, (name, text) in enumerate(_GAUGES, start=3):
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        for labels, state in shown.items():
            family.add_metric(labels, float(state[place]))
        yield family


def _histograms(shown: dict[tuple[str, str], list[DeliveryTimes]]) -> Iterator[Metric]:
    names = bucket_names(DELIVERY_SECONDS)
    for (name, text), attribute in zip(_HISTOGRAMS, ("delivered", "acknowledged"), strict=True):
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for labels, times in shown.items():
            observed: list[Observations] = [getattr(each, attribute) for each in times]
            family.add_metric(labels, cumulative(names, observed), sum(each.total for each in observed))
        yield family
