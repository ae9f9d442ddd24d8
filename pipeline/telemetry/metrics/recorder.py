"""The figures of one process since its last report. A report is JSON-like, and reports of processes can be added."""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from pipeline.telemetry.metrics.catalogue import BY_NAME, SECONDS
from stages import observer

# A name and its labels, in a fixed order.
Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
Gauge: TypeAlias = tuple[str, Mapping[str, str], float]
TIER = "standard"
_STANDARD = dict.fromkeys(("", "default", "auto", "on_demand"), TIER)  # in the words of providers
_MOST_SERIES = 200  # of one name; a further one is counted under labels of this word:
_OTHER = "other"
_LONGEST_LABEL = 100
_TOKENS = {
    "input": "input", "output": "output", "cached_input": "cache_read", "cache_write": "cache_write",
    "reasoning": "reasoning",
}  # fmt: skip


class Recorder:
    """Counts events of this process, on any thread. `gauges` are functions that are called for each report."""

    def __init__(self) -> None:
        self.gauges: list[Callable[[], Iterable[Gauge]]] = [self._flush_lag]
        self._counts: dict[Series, float] = {}
        self._observed: dict[Series, list[float]] = {}  # buckets, not cumulative, then the sum
        self._series: dict[Series, Series] = {}
        self._of_name: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._flushing: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._longest_lag = 0.0

    def count(self, name: str, labels: Mapping[str, str], amount: float = 1) -> None:
        with self._lock:
            series = self._bounded(name, labels)
            self._counts[series] = self._counts.get(series, 0) + amount

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Add a value to a histogram, whose buckets are SECONDS."""
        with self._lock:
            series = self._bounded(name, labels)
            buckets = self._observed.get(series)
            if buckets is None:
                buckets = self._observed[series] = [0.0] * (len(SECONDS) + 2)
            buckets[bisect_left(SECONDS, value)] += 1
            buckets[-1] += value

    def report(self) -> dict[str, Any]:
        """Return what was counted since the last report, and the gauges of now."""
        gauges = [[name, dict(labels), value] for source in self.gauges for name, labels, value in source()]
        with self._lock:
            counts, self._counts = self._counts, {}
            observed, self._observed = self._observed, {}
        return {
            "counts": [[name, dict(labels), amount] for (name, labels), amount in counts.items()],
            "observed": [[name, dict(labels), buckets] for (name, labels), buckets in observed.items()],
            "gauges": gauges,
        }

    def _bounded(self, name: str, labels: Mapping[str, str]) -> Series:
        series = name, tuple((label, value[:_LONGEST_LABEL]) for label, value in labels.items())
        known = self._series.get(series)
        if known is not None:
            return known
        if self._of_name[name] >= _MOST_SERIES:
            return name, tuple((label, _OTHER) for label in labels)
        self._of_name[name] += 1
        self._series[series] = series
        return series

    # As `stages.observer.Observer` -----------------------------------------------------------------------------------

    def call_answered(self, model: str, usage: Mapping[str, int], cost_usd: float | None, tier: str) -> None:
        tier = _STANDARD.get(tier, tier)
        self.count("tandem_model_calls_total", {"model": model, "tier": tier, "outcome": "answered"})
        for kind, label in _TOKENS.items():
            if kind in usage:
                self.count("tandem_tokens_total", {"model": model, "kind": label}, usage[kind])
        if cost_usd is not None:
            self.count("tandem_cost_usd_total", {"model": model, "tier": tier}, cost_usd)

    def call_failed(self, model: str, *, unknown: bool) -> None:
        outcome = "unknown" if unknown else "failed"
        self.count("tandem_model_calls_total", {"model": model, "tier": TIER, "outcome": outcome})

    def limit_waited(self, seconds: float) -> None:
        self.observe("tandem_limit_wait_seconds", {}, seconds)

    def rows_done(self, stage: str, rows: int) -> None:
        self.count("tandem_stage_rows_total", {"stage": stage}, rows)

    def flush_began(self, journal: object) -> None:
        with self._lock:
            self._flushing.setdefault(journal, time.monotonic())

    def flush_ended(self, journal: object) -> None:
        with self._lock:
            began = self._flushing.pop(journal, None)
            if began is not None:
                self._longest_lag = max(self._longest_lag, time.monotonic() - began)

    def _flush_lag(self) -> Iterable[Gauge]:
        with self._lock:
            lags = [self._longest_lag, *(time.monotonic() - began for began in self._flushing.values())]
            self._longest_lag = 0.0
        yield "tandem_flush_lag_seconds", {}, max(lags)


current: Recorder | None = None  # of this process; None: nothing is recorded


def record() -> Recorder:
    """Record in this process from now on, also what its stages do."""
    global current  # noqa: PLW0603  one a process, set once before its work
    current = Recorder()
    observer.listen(current)
    return current


def stop() -> None:
    """Record nothing in this process from now on."""
    global current  # noqa: PLW0603
    current = None
    observer.listen(None)


def label_names(name: str, labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels of a metric in the catalogue's order; of another's, sorted."""
    metric = BY_NAME.get(name)
    return metric.labels if metric is not None else tuple(sorted(labels))
