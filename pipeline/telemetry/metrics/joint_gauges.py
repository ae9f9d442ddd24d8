"""Gauges that only the figures of all processes of a command yield. Processes report their parts under names that begin
with `_`, by limit or run; these labels are not shown to anybody."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import inf

from pipeline.telemetry.metrics.recorder import Gauge

RATE, WANTED = "_limit_rate", "_limit_rate_wanted"  # by `limit`: a process's part of the rate; the limit of the spec
BUDGET, SPENT, CHARGED = (
    "_budget",
    "_budget_spent",
    "_budget_charged",
)  # by `run`: what it may spend, what ended processes and this one spent


def joint(gauges: Iterable[Gauge]) -> Iterator[Gauge]:
    """Yield the gauges of a command from the parts of its processes."""
    parts: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, labels, value in gauges:
        if name.startswith("_"):
            parts[name][next(iter(labels.values()))].append(value)
    rates = {limit: sum(found) for limit, found in parts[RATE].items()}
    slowest = min(rates, key=lambda limit: rates[limit], default=None)
    yield "tandem_limit_rate", {}, inf if slowest is None else rates[slowest]
    yield "tandem_limit_rate_wanted", {}, inf if slowest is None else max(parts[WANTED][slowest], default=inf)
    used = [
        (max(parts[CHARGED][run], default=0.0) + sum(parts[SPENT][run])) / max(limits)
        for run, limits in parts[BUDGET].items()
    ]
    if used:
        yield "tandem_budget_used_ratio", {}, max(used)
