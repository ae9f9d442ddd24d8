"""A run that has not ended: figures from Temporal where it answers, else from the sink."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from pipeline.client.connection import Connection
from pipeline.client.follow import progress_of
from pipeline.client.live_figures import BudgetFigures, RowRate
from pipeline.client.open_runs import open_run
from pipeline.client.run import Run
from pipeline.client.work_in_progress import work_in_progress
from pipeline.operations.find_run import report_of
from pipeline.runs.html import charts
from pipeline.runs.html.charts import Chart
from pipeline.runs.report import Report, load_report
from pipeline.runs.statistics.reject_classes import error_classes
from pipeline.sinks import outcomes
from pipeline.stores import Store
from schemas.messages.batch import ModelLoad
from schemas.messages.partition import PartitionResult
from schemas.messages.run import Progress
from schemas.plan import RunRequest

_EVERY_S = 1.0
_SINK_EVERY_S = 5.0
_BUCKETS = 60
_SHOWN = 40
_MOST_CLASSES = 12


@dataclass
class Timeline:
    """Rows that were done in each second since the page is open."""

    began: float = field(default_factory=time.monotonic)
    rows: list[int] = field(default_factory=list)
    _last: int | None = None

    def note(self, rows: int) -> None:
        self.rows.append(max(0, rows - (self._last if self._last is not None else rows)))
        self._last = rows
        self.rows = self.rows[-_BUCKETS:]

    def chart(self) -> Chart:
        title = "Rows a second, while this page is open"
        values = [(float(rows), f"{rows:,} rows") for rows in self.rows]
        labels = [(0.0, f"{len(self.rows)} s ago"), (1.0, "now")]
        return charts.chart(title, values, labels, unit="rows", legend="rows done in a second")


@dataclass(frozen=True)
class LiveRun:
    """The state of a run. `source` says where the figures are from; `least`: calls and cost are lower bounds;
    `errors`: rejected rows by class; `failed_calls`: calls that were made again, of partitions at work, by class."""

    state: str
    detail: str
    source: str
    rows: int
    rows_total: int
    rejected: int
    calls: int
    cost_usd: float
    budget_usd: float | None
    rows_per_s: float
    left_s: float | None
    waiting: str
    least: bool
    running: tuple[str, ...]
    held: tuple[str, ...]
    finished: tuple[PartitionResult, ...]
    chart: Chart | None
    loads: tuple[ModelLoad, ...] = ()
    errors: tuple[tuple[str, int], ...] = ()
    failed_calls: tuple[tuple[str, int], ...] = ()


@dataclass
class FinishedErrors:
    """Rejected rows by class of the partitions that have ended in this run, each read from the sink once."""

    store: Store
    run: str
    classes: Counter[str] = field(default_factory=Counter)
    _read: set[str] = field(default_factory=set)
    _has_earlier: bool = False

    def add(self, results: Iterable[PartitionResult]) -> None:
        """Add partitions that are not in it yet. Blocks."""
        new = [one for one in results if one.partition not in self._read and one.counts.rejected]
        self._read.update(one.partition for one in new)
        for found in error_classes(self.store, self.run, new):
            self.classes[found.error] += found.rows

    async def with_progress(self, progress: Progress) -> Counter[str]:
        """Return the classes with those that ended lately. The first time, all that ended before are read."""
        if progress.finished_before and not self._has_earlier:
            self._has_earlier = True
            await asyncio.to_thread(lambda: self.add(outcomes.outcomes(self.store, self.run)))
        await asyncio.to_thread(self.add, progress.finished)
        return self.classes


async def live(connection: Connection | None, store: Store, request: RunRequest) -> AsyncIterator[LiveRun]:
    """Yield a run's state every second, every five from the sink alone, until it has ended."""
    run = Run(request, store, None, "joined")
    pace, budget, timeline = RowRate(), BudgetFigures(run), Timeline()
    ended = FinishedErrors(store, request.run)
    while True:
        opened = await open_run(connection.client, store, request) if connection is not None else None
        progress = await progress_of(opened.handle) if opened is not None else None
        if connection is not None and progress is not None:
            work = await work_in_progress(connection.client, run, progress)
            await budget.update(work)
            pace.note(time.monotonic(), work.rows)
            timeline.note(work.rows)
            errors = await ended.with_progress(progress) + work.rejects
            rate, left = pace.rows_per_s, progress.rows_total - work.rows
            yield LiveRun(
                state=progress.state, detail=progress.detail, source="live, from Temporal", rows=work.rows,
                rows_total=progress.rows_total, rejected=max(work.rejected, errors.total()), calls=work.calls,
                cost_usd=work.cost_usd, budget_usd=work.budget_usd, rows_per_s=rate,
                left_s=left / rate if rate and left > 0 and progress.state == "running" else None,
                waiting=_waiting(progress, work.reason), least=not work.whole, running=progress.running[:_SHOWN],
                held=progress.held, finished=tuple(reversed(progress.finished[-_SHOWN:])),
                chart=timeline.chart() if len(timeline.rows) > 1 else None, loads=tuple(work.loads),
                errors=tuple(errors.most_common(_MOST_CLASSES)),
                failed_calls=tuple(work.failed_calls.most_common(_MOST_CLASSES)),
            )  # fmt: skip
            await asyncio.sleep(_EVERY_S)
            continue
        if opened is None and await asyncio.to_thread(load_report, store, request.run) is not None:
            return
        yield _of_sink(await report_of(connection, store, request), connection is not None)
        await asyncio.sleep(_SINK_EVERY_S)


def _waiting(progress: Progress, reason: str) -> str:
    return progress.stop.message if progress.stop is not None else reason


def _of_sink(report: Report, reached: bool) -> LiveRun:
    counts, usage = report.totals.counts, report.totals.usage
    source = "from the sink: no worker answers" if reached else "from the sink: Temporal cannot be reached from here"
    return LiveRun(
        state=report.state, detail="", source=source, rows=counts.rows_in, rows_total=0, rejected=counts.rejected,
        calls=usage.calls, cost_usd=usage.cost_usd, budget_usd=None, rows_per_s=0.0, left_s=None,
        waiting=report.stop.message if report.stop is not None else report.reason, least=False, running=(), held=(),
        finished=(), chart=None,
    )  # fmt: skip
