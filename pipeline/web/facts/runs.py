"""The runs of a sink with their reports, as they are written there."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.runs.report import Report, load_report, saved_by_journal
from pipeline.runs.requests import load_request
from pipeline.stores import Store
from schemas import ids
from schemas.plan import RunRequest

_THREADS = 16


@dataclass(frozen=True)
class RunLine:
    """A run. `report` is None until it has ended for the first time."""

    request: RunRequest
    report: Report | None

    @property
    def name(self) -> str:
        return self.request.run

    @property
    def state(self) -> str:
        """The state in the sink. A run without a report runs, is paused, or was killed: only Temporal knows."""
        return self.report.state if self.report is not None else "open"

    @property
    def calls(self) -> int:
        return self.report.totals.usage.calls if self.report is not None else 0

    @property
    def cost_usd(self) -> float:
        return self.report.totals.usage.cost_usd if self.report is not None else 0.0

    @property
    def seconds(self) -> float | None:
        if self.report is None or self.report.finished_at is None:
            return None
        return (self.report.finished_at - self.report.started_at).total_seconds()


def runs_of(store: Store) -> list[RunLine]:
    """Return all runs, the newest first. Raises StoreError."""

    def read(run: str) -> RunLine | None:
        request = load_request(store, run)
        return None if request is None else RunLine(request, load_report(store, run))

    names = list(store.folders(ids.RUNS))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tandem-page") as threads:
        found = [line for line in threads.map(read, names) if line is not None]
    return sorted(found, key=lambda line: line.request.created_at, reverse=True)


@dataclass(frozen=True)
class DaySpend:
    """What runs that began on a UTC day paid, and what they did not pay again."""

    day: dt.date
    runs: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    rows_reused: int
    rows_shared: int
    calls_reused: int
    saved_usd: float
    cache_saved_usd: float
    jobs_saved_usd: float


def per_day(lines: list[RunLine]) -> list[DaySpend]:
    """Sum the reports by the day on which runs began, the newest first. `saved_usd` takes the mean price of a row (of a
    call) of the same run for each that the journal answered."""
    by_day: dict[dt.date, list[Report]] = {}
    for line in lines:
        if line.report is not None:
            by_day.setdefault(line.report.started_at.astimezone(dt.UTC).date(), []).append(line.report)
    return [_day(day, reports) for day, reports in sorted(by_day.items(), reverse=True)]


def _day(day: dt.date, reports: list[Report]) -> DaySpend:
    usages = [report.totals.usage for report in reports]
    reuses = [report.totals.reuse for report in reports]
    return DaySpend(
        day=day,
        runs=len(reports),
        calls=sum(usage.calls for usage in usages),
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cost_usd=sum(usage.cost_usd for usage in usages),
        rows_reused=sum(reuse.rows_reused for reuse in reuses),
        rows_shared=sum(reuse.rows_shared for reuse in reuses),
        calls_reused=sum(reuse.calls_reused for reuse in reuses),
        saved_usd=sum(map(saved_by_journal, reports)),
        cache_saved_usd=sum(usage.cache_saved_usd for usage in usages),
        jobs_saved_usd=sum(report.jobs.saved_usd for report in reports),
    )
