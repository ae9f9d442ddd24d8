"""Statistics of a run: each partition, the calls over time, slow, expensive and rejected rows. From outcomes, plans and
the journal's records, each read once, in memory that does not grow with them."""

import dataclasses
import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.journal.compacted import records_of_run
from pipeline.runs import plan_pages, progress, row_names
from pipeline.runs.report import Report
from pipeline.runs.statistics.document import (
    CostlyRow,
    LatencyBucket,
    ModelUsage,
    PartitionLine,
    RunStatistics,
    TimeBucket,
)
from pipeline.runs.statistics.reject_classes import error_classes
from pipeline.sinks import outcomes
from pipeline.stores import Store
from schemas.messages.partition import PartitionResult
from stages.journal.records import TOOL, CallRecord, Record, RowRecord

MOST_LINES = 2_000
_MOST_RECORDS = 500_000
_MOST_ROWS = 10_000  # held at a time, to find the slowest and dearest
_TOP = 10
_MOMENTS = 60
_SMALL, _AHEAD, _THREADS = 200, 64, 16  # calls of a partition that is read at once; so many partitions
_STEP = math.log(1.05)  # latencies are kept to five per cent
_BARS = 24


def collect(store: Store, report: Report) -> RunStatistics:
    """Collect the statistics of a run that has ended."""
    results = list(outcomes.outcomes(store, report.run))
    lines = partition_lines(store, report, results)
    seen = CallSummary()
    for partition, records in _records(store, report.run, results):
        seen.partition(partition, records)
        if seen.full:
            break
    slowest = sorted((row for row in seen.slowest if row.ms), key=lambda row: -row.ms)[:_TOP]
    dearest = sorted((row for row in seen.dearest if row.cost_usd), key=lambda row: -row.cost_usd)[:_TOP]
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


def _records(store: Store, run: str, results: Iterable[PartitionResult]) -> Iterator[tuple[str, Iterable[Record]]]:
    """Yield the records of each partition with calls, the most calls first: of large ones as they are read, of small
    ones read side by side, as a request takes longer than its records."""

    def read(partition: str) -> list[Record]:
        return list(records_of_run(store, partition, run, requests=False))

    paid = sorted((one for one in results if one.usage.calls), key=lambda one: -one.usage.calls)
    small = [one.partition for one in paid if one.usage.calls <= _SMALL]
    for one in paid[: len(paid) - len(small)]:
        yield one.partition, records_of_run(store, one.partition, run, requests=False)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tandem-records") as threads:
        for start in range(0, len(small), _AHEAD):
            some = small[start : start + _AHEAD]
            yield from zip(some, threads.map(read, some), strict=True)


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


# Records -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    model: str = ""
    calls: int = 0
    ms: int = 0
    cost_usd: float = 0.0


@dataclass(slots=True)
class _Used:
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


@dataclass
class CallSummary:
    """Summary of records: counts by second, latencies by class, a few rows."""

    rows: Counter[int] = field(default_factory=Counter)
    calls: Counter[int] = field(default_factory=Counter)
    cost: dict[int, float] = field(default_factory=dict)
    latency: Counter[int] = field(default_factory=Counter)
    slowest: list[CostlyRow] = field(default_factory=list)
    dearest: list[CostlyRow] = field(default_factory=list)
    used: dict[tuple[str, str, str], _Used] = field(default_factory=dict)
    read: int = 0

    @property
    def full(self) -> bool:
        return self.read >= _MOST_RECORDS

    def partition(self, partition: str, records: Iterable[Record]) -> None:
        nonces: set[int] = set()
        answered: set[int] = set()  # hashes, as the keys of a large partition take tens of MB
        rows: dict[str, _Row] = {}
        for record in records:
            self.read += 1
            if isinstance(record, RowRecord) and _is_new(hash(record.key), answered):
                self.rows[int(record.at)] += 1
            elif (
                isinstance(record, CallRecord)
                and not record.carried
                and record.raw is not None
                and _is_new(hash(record.nonce), nonces)
            ):
                self._call(record, rows.setdefault(record.id, _Row()))
            if len(rows) > _MOST_ROWS:
                rows = dict(_top(rows))
            if self.full:
                break
        for row, numbers in _top(rows):
            self.slowest.append(_costly_row(partition, row, numbers))
            self.dearest.append(self.slowest[-1])

    def _call(self, record: CallRecord, row: _Row) -> None:
        second = int(record.at)
        self.calls[second] += 1
        self.cost[second] = self.cost.get(second, 0.0) + (record.cost_usd or 0.0)
        if "job" not in (record.by or {}):  # a provider batch job says nothing of the time of one call
            self.latency[round(math.log(max(record.latency_ms, 1)) / _STEP)] += 1
        self._use(record)
        row.model = record.model
        row.calls += 1
        row.ms += record.latency_ms
        row.cost_usd += record.cost_usd or 0.0

    def _use(self, record: CallRecord) -> None:
        by = record.by or {}
        used = self.used.setdefault((record.model, by.get("tier", ""), by.get("stage", "")), _Used())
        used.calls += 1
        used.input_tokens += record.usage.get("input", 0)
        used.output_tokens += record.usage.get("output", 0)
        used.cost_usd += record.cost_usd or 0.0

    def models(self) -> list[ModelUsage]:
        """Return the models, the most expensive first; tools are none."""
        found = [
            ModelUsage(model=model, tier=tier, stage=stage, **dataclasses.asdict(used))
            for (model, tier, stage), used in self.used.items()
            if not model.startswith(TOOL)
        ]
        return sorted(found, key=lambda one: (-one.cost_usd, one.model, one.tier, one.stage))

    def moments(self) -> Iterator[TimeBucket]:
        """Yield at most _MOMENTS equal parts, from the first to the last."""
        seconds = self.rows.keys() | self.calls.keys()
        if not seconds:
            return
        first, last = min(seconds), max(seconds)
        width = max(1, math.ceil((last - first + 1) / _MOMENTS))
        for start in range(first, last + 1, width):
            within = range(start, start + width)
            yield TimeBucket(
                at=dt.datetime.fromtimestamp(start, dt.UTC),
                seconds=width,
                rows=sum(self.rows[second] for second in within),
                calls=sum(self.calls[second] for second in within),
                cost_usd=sum(self.cost.get(second, 0.0) for second in within),
            )

    def bars(self) -> Iterator[LatencyBucket]:
        if not self.latency:
            return
        first, last = min(self.latency), max(self.latency)
        width = max(1, math.ceil((last - first + 1) / _BARS))
        for start in range(first, last + 1, width):
            calls = sum(self.latency[step] for step in range(start, start + width))
            yield LatencyBucket(
                least_ms=round(math.exp((start - 0.5) * _STEP), 1),
                most_ms=round(math.exp((start + width - 0.5) * _STEP), 1),
                calls=calls,
            )

    def percentile(self, share: float) -> float:
        remaining = share * self.latency.total()
        for step in sorted(self.latency):
            remaining -= self.latency[step]
            if remaining <= 0:
                return round(math.exp(step * _STEP), 1)
        return 0.0


def _is_new(identity: int, known: set[int]) -> bool:
    if identity in known:
        return False
    known.add(identity)
    return True


def _top(rows: dict[str, _Row]) -> list[tuple[str, _Row]]:
    slow = sorted(rows.items(), key=lambda item: -item[1].ms)[:_TOP]
    costly = sorted(rows.items(), key=lambda item: -item[1].cost_usd)[:_TOP]
    return list(dict([*slow, *costly]).items())


def _costly_row(partition: str, row: str, numbers: _Row) -> CostlyRow:
    return CostlyRow(
        partition=partition, row=row, model=numbers.model, calls=numbers.calls, ms=numbers.ms, cost_usd=numbers.cost_usd
    )


def _named(store: Store, run: str, rows: Iterable[CostlyRow]) -> Callable[[CostlyRow], CostlyRow]:
    """Return a function that adds the text of its key to a row."""
    identities: dict[str, set[str]] = {}
    for row in rows:
        identities.setdefault(row.partition, set()).add(row.row)
    names = row_names.names_of(store, run, identities)
    return lambda row: row.model_copy(update={"key": names.get((row.partition, row.row), "")})
