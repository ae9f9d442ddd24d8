"""Figures of the limiters and budgets of one process, read when a report is made."""

from collections.abc import Iterable
from math import inf

from pipeline.limits.run_budget import RunBudgets
from pipeline.telemetry.metrics.joint_gauges import BUDGET, CHARGED, RATE, SPENT, WANTED
from pipeline.telemetry.metrics.recorder import Gauge
from stages.limits.limiter import Limiters


def of_limiters(limiters: Limiters) -> Iterable[Gauge]:
    """Yield calls in flight, providers that are down, and the rates of limits that slow calls."""
    places = limiters.places()
    yield "tandem_calls_in_flight", {}, sum(queue.in_flight for _, queue in places)
    yield "tandem_breaker_open", {}, max((float(queue.out) for _, queue in places), default=0.0)
    for key, queue in places:
        for name, rate in ((RATE, queue.rate), (WANTED, queue.limit.requests / 60)):
            if rate < inf:  # reports are JSON, which has no such number
                yield name, {"limit": key}, rate


def of_budgets(budgets: RunBudgets) -> Iterable[Gauge]:
    """Yield what runs may spend and have spent, by this process and by those that have ended."""
    for run, ledger, own in budgets.ledgers():
        if not (ledger.limits.nanos or ledger.limits.tokens):
            continue
        axis = 0 if ledger.limits.nanos else 1  # USD; tokens where they alone are limited
        yield BUDGET, {"run": run}, ledger.limits.nanos or ledger.limits.tokens or 1
        yield CHARGED, {"run": run}, ledger.spent[axis]
        yield SPENT, {"run": run}, own[axis]
