"""Reports of runs, as objects under `_tandem/runs/<name>/`: they outlast Temporal's retention."""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.runs.job_counts import JobCounts
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Bug, Damaged, LimitReached, NoRoom, ObjectMissing, TandemError, by_code
from schemas.manifest import Answerers, BrokenCheck, Noun, Share
from schemas.messages.base import RunState
from schemas.messages.partition import PartitionResult
from schemas.messages.run import Failure, Totals

_PARTITIONS = ("total", "published", "unchanged", "failed", "cancelled", "not_run")


class PartitionCheck(BrokenCheck):
    """A check that rows of a partition break."""

    partition: str


class Gone(Noun):
    """Published partitions and rows that the source has no more."""

    partitions: int = 0
    rows: int = 0


class MixedColumns(Noun):
    """The state of a change of columns: `partitions` of the `of` published ones have the former ones; `change` lists
    the differences."""

    partitions: int = 0
    of: int = 0
    change: str = ""


class Report(Noun):
    """A run's report. Its JSON form on the command line is `as_json`. `reason`: why it is paused."""

    run: str
    pipeline: str
    state: RunState
    sink: str
    plan: str
    totals: Totals
    failures: tuple[Failure, ...]
    stop: Failure | None
    started_at: dt.datetime
    finished_at: dt.datetime | None
    reason: str = ""
    checks: tuple[PartitionCheck, ...] = ()
    lost_attempts: int = 0
    gone: Gone = Gone()
    retired: int = 0
    mixed: MixedColumns = MixedColumns()
    answered_by: Answerers = {}
    jobs: JobCounts = JobCounts()

    @property
    def billed_over_needed(self) -> float | None:
        """Calls paid for, by those that were needed; None where calls may be missing from both."""
        usage = self.totals.usage
        needed = usage.calls - usage.repaid
        if self.lost_attempts:
            return None
        return round(usage.calls / needed, 4) if needed else 1.0

    @property
    def lost_attempts_note(self) -> str:
        """The reason why `billed_over_needed` is unknown; empty if it is known."""
        if not self.lost_attempts:
            return ""
        return (
            f"{self.lost_attempts:,} attempt(s) of batches died with a worker whose unflushed answers cannot be read "
            "from the machine that continued: calls and cost are lower bounds, and calls paid twice are unknown."
        )


def lost_attempts(store: Store, run: str) -> int:
    return sum(1 for _ in store.list(ids.lost_attempts(run)))


def broken_checks(ended: Iterable[PartitionResult]) -> tuple[PartitionCheck, ...]:
    """Return the checks that rows break, of stored outcomes."""
    return tuple(
        PartitionCheck(partition=result.partition, **check.model_dump()) for result in ended for check in result.checks
    )


def load_report(store: Store, run: str) -> Report | None:
    """Load a run's report; None if there is none, or it is damaged: it is derived, and the end of a run writes it."""
    try:
        return read_document(store, ids.report(run), Report)
    except (ObjectMissing, Damaged):
        return None


def moved_models(found: Answerers) -> Iterator[str]:
    """Yield a sentence for each model of a stage under whose name several have answered."""
    for stage, models in sorted(found.items()):
        for asked, answered in sorted(models.items()):
            if len(answered) > 1:
                parts = ", ".join(f"{rows:,} rows by {name}" for name, rows in sorted(answered.items()))
                yield (
                    f"{stage}: the provider has moved {asked}: {parts}. Rows keep their answers; run --fresh asks for "
                    f"new ones."
                )


def saved_by_journal(report: Report) -> float:
    """Estimate what the journal saved a run: the mean price of its paid rows and calls for those it did not pay. 0 for
    a run that paid nothing, as it says nothing of prices."""
    counts, usage, reuse = report.totals.counts, report.totals.usage, report.totals.reuse
    paid_rows = counts.rows_in - reuse.rows_reused - reuse.rows_shared
    a_row = usage.cost_usd / paid_rows if paid_rows > 0 else 0.0
    a_call = usage.cost_usd / usage.calls if usage.calls else 0.0
    return a_row * (reuse.rows_reused + reuse.rows_shared) + a_call * reuse.calls_reused


def as_json(report: Report) -> dict[str, Any]:
    """Return the report in the shape of `run --json`."""
    totals = report.totals
    counts, usage = totals.counts, totals.usage
    return {
        "run": report.run,
        "pipeline": report.pipeline,
        "state": report.state,
        "partitions": {**{name: getattr(totals, name) for name in _PARTITIONS}, "retired": report.retired},
        "rows": {
            "in": counts.rows_in, "ok": counts.ok, "rejected": counts.rejected, "filtered": counts.filtered,
            "pending": counts.pending, "removed": counts.removed, "out": counts.out, "unfinished": counts.unfinished,
        },
        "gone": report.gone.model_dump(),
        **({"mixed": report.mixed.model_dump()} if report.mixed.partitions else {}),
        "journal": totals.reuse.model_dump(),
        "usage": {
            "calls": usage.calls, "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
            "cost_usd": round(usage.cost_usd, 6), "unknown": usage.unknown,
            "by_tier": {
                tier: {"calls": used.calls, "cost_usd": round(used.cost_usd, 6)}
                for tier, used in sorted(usage.by_tier.items())
            },
            "cache_read_tokens": usage.cached_input_tokens, "cache_write_tokens": usage.cache_write_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            **({"web_searches": usage.web_searches} if usage.web_searches else {}),
            "saved_usd": {
                "journal": round(saved_by_journal(report), 6), "cache": round(usage.cache_saved_usd, 6),
                "batch": round(report.jobs.saved_usd, 6),
            },
        },
        **({"jobs": _jobs_as_json(report.jobs)} if report.jobs.submitted else {}),
        "billed_over_needed": report.billed_over_needed,
        **({"billed_over_needed_unknown": report.lost_attempts_note} if report.lost_attempts_note else {}),
        "sink": report.sink,
        "started_at": _iso(report.started_at),
        "finished_at": _iso(report.finished_at),
        "failures": [failure.model_dump() for failure in report.failures],
        "checks": [as_json_check(check) for check in report.checks],
        **({"reason": report.reason} if report.reason else {}),
        **({"cascades": cascades(totals)} if totals.shares else {}),
        **({"answered_by": report.answered_by} if report.answered_by else {}),
    }  # fmt: skip


def _jobs_as_json(jobs: JobCounts) -> dict[str, Any]:
    return {
        "submitted": jobs.submitted, "completed": jobs.completed, "expired": jobs.expired, "requests": jobs.requests,
        "done": jobs.done, "saved_usd": round(jobs.saved_usd, 6), "deadline": _iso(_time(jobs.deadline)),
    }  # fmt: skip


def _time(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)


def as_json_check(check: BrokenCheck) -> dict[str, Any]:
    """Return a check that rows break as JSON, with its partition if known."""
    partition = {"partition": check.partition} if isinstance(check, PartitionCheck) else {}
    content = {"name": check.name, "severity": check.severity, "rows": check.rows, "keys": list(check.keys)}
    others = {"others": list(check.others)} if check.others else {}
    return {**partition, **content, **others}


def cascades(totals: Totals) -> dict[str, dict[str, Any]]:
    """Summarise each stage whose models take turns: rows by role, the share that `main` answered, and the estimated
    saving against `main` alone: the mean cost of its calls for each call of the cheap model, less the actual cost."""
    summary = {}
    for stage, roles in totals.shares.items():
        main, cheap = roles.get("main", Share()), roles.get("cheap", Share())
        rows = sum(share.rows for share in roles.values())
        alone = cheap.calls * main.cost_usd / main.calls if main.calls else None
        summary[stage] = {
            "rows": {role: share.rows for role, share in sorted(roles.items())},
            "escalated": round(main.rows / rows, 4) if rows else 0.0,
            "saving_usd": None if alone is None else round(alone - main.cost_usd - cheap.cost_usd, 6),
        }
    return summary


def exit_code(report: Report) -> int:
    """Return the exit code for the command line: a limit comes first, then a bug, then the error that stopped it."""
    stop = by_code(report.stop.error) if report.stop is not None else None
    causes = [by_code(failure.error) for failure in report.failures]
    if any(issubclass(cause, LimitReached) for cause in (*causes, *([stop] if stop else []))):
        return LimitReached.exit_code
    if Bug in causes:
        return Bug.exit_code
    if any(issubclass(cause, NoRoom) for cause in causes):
        return NoRoom.exit_code
    if stop is not None and stop.exit_code != TandemError.exit_code:
        return stop.exit_code
    return 0 if report.state == "completed" else 1


def _iso(time: dt.datetime | None) -> str | None:
    return None if time is None else time.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
