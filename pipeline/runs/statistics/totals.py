"""Statistics of a run: each partition, the calls over time, slow, expensive and rejected rows. From outcomes, plans and
the journal's records."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import polars as pl

from pipeline.journal.compacted import of_run
from pipeline.read_ahead import read_ahead
from pipeline.runs import plan_pages, progress, row_names
from pipeline.runs.report import Report
from pipeline.runs.statistics.calls import COLUMNS, CallSummary
from pipeline.runs.statistics.document import CostlyRow, PartitionLine, RunStatistics
from pipeline.runs.statistics.reject_classes import error_classes
from pipeline.sinks import outcomes
from pipeline.stores import Store
from schemas.messages.partition import PartitionResult

MOST_LINES = 2_000
_SMALL, _AHEAD, _THREADS = 200, 64, 16  # calls of a partition that is read at once; so many partitions


def collect(store: Store, report: Report) -> RunStatistics:
    """Collect the statistics of a run that has ended."""
    results = list(outcomes.outcomes(store, report.run))
    lines = partition_lines(store, report, results)
    seen = CallSummary()
    for records in _records(store, report.run, results):
        seen.add_all(records)
        if seen.full:
            break
    slowest, dearest = seen.slowest, seen.dearest
    with_key = _named(store, report.run, (*slowest, *dearest))
    return RunStatistics(
        lines=tuple(lines[:MOST_LINES]),
        moments=tuple(seen.moments()),
        latency=tuple(seen.bars()),
        percentiles_ms={f"p{share}": seen.percentile(share / 100) for share in (50, 90, 99)} if seen.latency else {},
        slowest=tuple(map(with_key, slowest)),
        dearest=tuple(map(with_key, dearest)),
        errors=tuple(error_classes(store, report.run, results)),
        models=tuple(seen.models()),
        whole=len(lines) <= MOST_LINES and not seen.full,
    )


def _records(store: Store, run: str, results: Iterable[PartitionResult]) -> Iterator[Iterator[pl.DataFrame]]:
    """Yield the records of each partition with calls, the most calls first: of large ones as they are read, of small
    ones together and read side by side, as a request takes longer than its records."""

    def read(partition: str) -> Iterator[pl.DataFrame]:
        for chunk in of_run(store, partition, run, COLUMNS, requests=False):
            yield chunk.with_columns(partition=pl.lit(partition))

    def read_small(partition: str) -> list[pl.DataFrame]:
        return list(read(partition))

    paid = sorted((one for one in results if one.usage.calls), key=lambda one: -one.usage.calls)
    small = [one.partition for one in paid if one.usage.calls <= _SMALL]
    large = ((one.partition, chunk) for one in paid[: len(paid) - len(small)] for chunk in read(one.partition))
    for _, chunks in itertools.groupby(read_ahead(large), itemgetter(0)):
        yield (chunk for _, chunk in chunks)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tandem-records") as threads:
        for start in range(0, len(small), _AHEAD):
            found = [*itertools.chain.from_iterable(threads.map(read_small, small[start : start + _AHEAD]))]
            yield iter([pl.concat(found)] if found else [])


# Partitions --------------------------------------------------------------------------------------------------------


def partition_lines(store: Store, report: Report, results: Iterable[PartitionResult]) -> list[PartitionLine]:
    """Return the selected partitions, also those not run, with the reason; failed ones first."""
    ended = {result.partition: result for result in results}
    planned = {line.key: line for line in plan_pages.planned_lines(store, report.run, report.plan)}
    begun = progress.usage_of_begun(store, report.run, set(ended)) if report.finished_at is None else {}
    found = []
    for key in planned.keys() | ended.keys():
        plan, result = planned.get(key), ended.get(key)
        if result is not None:
            reason = f"{result.error}: {result.message}".strip(": ") if result.error or result.message else ""
            found.append(
                PartitionLine(
                    partition=key, outcome=result.outcome, reason=reason or (plan.reason if plan else ""),
                    rows=result.counts.rows_in, rejected=result.counts.rejected, out=result.counts.out,
                    calls=result.usage.calls, cost_usd=result.usage.cost_usd,
                )
            )  # fmt: skip
        elif plan is not None and not plan.run:
            found.append(PartitionLine(partition=key, outcome="unchanged", reason=plan.reason))
        elif report.finished_at is not None:
            found.append(PartitionLine(partition=key, outcome="not_run", reason=_not_begun(report)))
        elif (usage := begun.get(key)) is not None:
            paid = {"calls": usage.calls, "cost_usd": usage.cost_usd}
            found.append(PartitionLine(partition=key, outcome=report.state, reason=report.reason, **paid))
        else:
            found.append(PartitionLine(partition=key, outcome="not_begun"))
    order = ("failed", "cancelled", "paused", "running", "not_run", "not_begun", "published", "unchanged")
    return sorted(found, key=lambda line: (order.index(line.outcome), line.partition))


def _not_begun(report: Report) -> str:
    if report.stop is not None:
        return f"not begun: {report.stop.message}"
    return "not begun: the run was cancelled" if report.state == "cancelled" else "not begun"


def _named(store: Store, run: str, rows: Iterable[CostlyRow]) -> Callable[[CostlyRow], CostlyRow]:
    """Return a function that adds the text of its key to a row."""
    identities: dict[str, set[str]] = {}
    for row in rows:
        identities.setdefault(row.partition, set()).add(row.row)
    names = row_names.names_of(store, run, identities)
    return lambda row: row.model_copy(update={"key": names.get((row.partition, row.row), "")})
