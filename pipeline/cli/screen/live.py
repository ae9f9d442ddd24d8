"""The progress of a run: a live view in a terminal; in a pipe a line for each finished partition and every 30 s."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from temporalio.client import Client

from pipeline.cli.screen.console import Screen, broken, counted, duration_text, err, failure, money, now, shown
from pipeline.client.follow import follow
from pipeline.client.live_figures import BudgetFigures, RowRate
from pipeline.client.run import Run
from pipeline.client.work_in_progress import Ages, WorkInProgress, work_in_progress
from pipeline.sinks.outcomes import load_outcome
from schemas.errors import ChecksFailed, ConnectionFailed, StoreError, by_code
from schemas.messages.partition import PartitionResult
from schemas.messages.run import Progress as RunProgress

_LINE_EVERY_S = 30.0
_FIRST_ANSWER_S = 30.0


class WatchTimeout(Exception):
    """`--watch-timeout` passed; the work goes on."""


class PausedByBudget(Exception):
    """The run is paused by its budget, until that is raised."""


async def watch(
    run: Run, client: Client, screen: Screen, *, timeout_s: float | None = None, wait: bool = False
) -> None:
    """Follow a run to its end. Raises WatchTimeout, ConnectionFailed if no provider gave a first answer, and, without
    `wait`, PausedByBudget."""
    view = _Live() if screen.live else _Lines(screen)
    pace, budget, ages = RowRate(), BudgetFigures(run), Ages()
    began = now()
    try:
        async with asyncio.timeout(timeout_s):
            with view.shown():
                seen, answered = 0, False
                async for progress in follow(run):
                    for result in progress.finished[max(0, seen - progress.finished_before) :]:
                        view.finished(await _with_checks(run, result))
                    seen = progress.finished_before + len(progress.finished)
                    if progress.stop is not None and not wait:
                        raise PausedByBudget
                    work = await work_in_progress(client, run, progress, ages)
                    await budget.update(work)
                    pace.note(now(), work.rows)
                    view.update(progress, work, pace)
                    answered = answered or bool(work.rows or work.calls)
                    if work.waiting and not answered and now() - began > _FIRST_ANSWER_S:
                        await _check_any_answer(run, work.waiting)
                        answered = True
    except TimeoutError:
        raise WatchTimeout from None


async def _with_checks(run: Run, result: PartitionResult) -> PartitionResult:
    """Return the outcome with its broken checks: the result sent over Temporal names no rows."""
    if not result.warnings and by_code(result.error) is not ChecksFailed:
        return result
    try:
        found = await asyncio.to_thread(load_outcome, run.store, run.request.run, result.partition)
    except StoreError:  # the view goes on without them; the report has them
        found = None
    return result if found is None else result.model_copy(update={"checks": found.checks})


async def _check_any_answer(run: Run, waiting: str) -> None:
    """Raises ConnectionFailed if no call was answered so far. Asks the journal: waiting batches send no heartbeats, and
    may have had answers between two heartbeats."""
    from pipeline.runs.progress import usage_so_far  # Polars, which a command that only asks does not need

    if not (await asyncio.to_thread(usage_so_far, run.store, run.request.run)).calls:
        raise ConnectionFailed(
            f"No answer for {_FIRST_ANSWER_S:.0f} s: {waiting}.",
            hint="Fix that; the run waits for it, and the same command resumes it.",
        )


class _Lines:
    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._printed_at = now()
        self._waiting = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        yield

    def finished(self, result: PartitionResult) -> None:
        (self._screen.fault if result.error else self._screen.note)(line(result), fields=_fields(result))

    def update(self, progress: RunProgress, work: WorkInProgress, pace: RowRate) -> None:
        waiting = progress.stop.message if progress.stop is not None else work.reason
        changed = bool(waiting) and waiting != self._waiting
        self._waiting = waiting
        if changed or now() - self._printed_at >= _LINE_EVERY_S:
            self._printed_at = now()
            self._screen.note(status(progress, work, pace))


class _Live:
    def __init__(self) -> None:
        # A column of its own, as that of a text cuts it off: what the run waits for, and until when, is at its end.
        self._bar = Progress(
            BarColumn(bar_width=24), TextColumn("{task.description}", markup=False, table_column=Column()),
            console=err, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        with self._bar:
            yield

    def finished(self, result: PartitionResult) -> None:
        self._bar.console.print(shown(line(result)), markup=False)

    def update(self, progress: RunProgress, work: WorkInProgress, pace: RowRate) -> None:
        if self._task is None:
            self._task = self._bar.add_task("planning", total=None)
        text = shown(status(progress, work, pace))
        self._bar.update(self._task, description=text, total=progress.rows_total or None, completed=work.rows)


def status(progress: RunProgress, work: WorkInProgress, pace: RowRate) -> str:
    """Return the progress of a run as one line."""
    if not progress.rows_total:
        return progress.detail
    rate, left = pace.rows_per_s, progress.rows_total - work.rows
    paused = "paused: " if progress.state == "paused" else ""
    parts = [f"{work.rows:,} of {progress.rows_total:,} rows", f"{paused}{progress.detail}"]
    if progress.state == "running":
        parts.append(
            f"{rate:,.0f} rows/s" + (f", about {duration_text(left / rate)} left" if rate and left > 0 else "")
        )
    spent = money(work.cost_usd) + (f" of {money(work.budget_usd)}" if work.budget_usd is not None else "")
    least = "" if work.whole else "at least "
    parts.append(f"{least}{counted(work.calls, 'call')}, {spent}, {work.rejected:,} rejected")
    if work.reason:
        parts.append(f"waiting: {work.reason}")
    return "; ".join(parts)


def line(result: PartitionResult) -> str:
    """Return the lines for one finished partition, with its broken checks."""
    return "\n".join([_outcome_text(result), *(f"    {broken(check)}" for check in result.checks)])


def _fields(result: PartitionResult) -> dict[str, Any]:
    """Return a finished partition as a record. Broken checks name rows, and are left out."""
    counts = result.counts
    return {
        "message": _outcome_text(result), "partition": result.partition, "outcome": result.outcome,
        "rows": counts.rows_in, "rejected": counts.rejected, "calls": result.usage.calls, "error": result.error,
    }  # fmt: skip


def _outcome_text(result: PartitionResult) -> str:
    counts = result.counts
    if result.outcome == "published":
        extra = [
            f"{getattr(counts, name):,} {name}" for name in ("rejected", "filtered", "pending") if getattr(counts, name)
        ]
        reused = result.reuse.rows_reused + result.reuse.rows_shared
        if reused:
            extra.append(f"{reused:,} without a call")
        if result.warnings:
            extra.append(f"{counted(result.warnings, 'warning')}: tandem partitions show {result.partition}")
        more = f" ({', '.join(extra)})" if extra else ""
        produced = f"{counted(counts.out, 'row')}{more}, {counted(result.usage.calls, 'call')}"
        return f"✓ {result.partition}: {produced}, generation {result.generation}"
    if result.outcome == "unchanged":
        return f"= {result.partition}: unchanged"
    if result.outcome == "not_run":
        return f"- {result.partition}: not run: {result.message}"
    return failure(result.partition, result.error or result.outcome, result.message)
