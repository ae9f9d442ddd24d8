"""The sum of the reports of all processes of a command.

Reports hold what was counted since the one before, so a process that dies takes nothing back: its counts stay, and only
its gauges end with it.
"""

import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.telemetry.metrics.catalogue import METRICS, Metric
from pipeline.telemetry.metrics.joint_gauges import joint
from pipeline.telemetry.metrics.recorder import Gauge, Series, label_names


@dataclass
class Totals:
    """Sums by name and labels. Reports arrive on the command's loop, scrapes on threads of their own."""

    counts: dict[Series, float] = field(default_factory=dict)
    observed: dict[Series, list[float]] = field(default_factory=dict)
    _gauges: dict[Hashable, list[Gauge]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, member: Hashable, report: Mapping[str, Any]) -> None:
        """Add a report of a process; its gauges replace those of its last report."""
        with self._lock:
            for name, labels, amount in report["counts"]:
                series = _series(name, labels)
                self.counts[series] = self.counts.get(series, 0) + amount
            for name, labels, buckets in report["observed"]:
                series = _series(name, labels)
                before = self.observed.get(series, [0.0] * len(buckets))
                self.observed[series] = [one + other for one, other in zip(before, buckets, strict=True)]
            self._gauges[member] = [(name, labels, value) for name, labels, value in report["gauges"]]

    def forget(self, member: Hashable) -> None:
        """End the gauges of a process."""
        with self._lock:
            self._gauges.pop(member, None)

    def read(self) -> "Reading":
        """Return the figures of now; what has no value yet is 0 where the catalogue says so."""
        with self._lock:
            counts = dict(self.counts)
            observed = {series: list(buckets) for series, buckets in self.observed.items()}
            gauges = [gauge for found in self._gauges.values() for gauge in found]
        combined = _combined([*gauges, *joint(gauges)])
        for metric in METRICS:
            for series in _initial(metric):
                if metric.kind == "histogram":
                    observed.setdefault(series, [])
                else:
                    (counts if metric.kind == "counter" else combined).setdefault(series, 0.0)
        return Reading(counts, combined, observed)


@dataclass(frozen=True)
class Reading:
    """The figures of a command at one time. An empty list of buckets: nothing was observed."""

    counts: Mapping[Series, float]
    gauges: Mapping[Series, float]
    observed: Mapping[Series, list[float]]


def _series(name: str, labels: Mapping[str, str]) -> Series:
    return name, tuple((label, labels[label]) for label in label_names(name, labels))


def _initial(metric: Metric) -> Iterator[Series]:
    for values in metric.values:
        yield metric.name, tuple(zip(metric.labels, values, strict=True))


def _combined(gauges: Iterable[Gauge]) -> dict[Series, float]:
    combine = {metric.name: metric.combine for metric in METRICS}
    found: dict[Series, float] = {}
    for name, labels, value in gauges:
        if name.startswith("_"):  # of one process, and not to be seen alone
            continue
        series = _series(name, labels)
        before = found.get(series)
        how = combine.get(name, "sum")
        found[series] = value if before is None else before + value if how == "sum" else max(before, value)
    return found
