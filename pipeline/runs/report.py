"""Reports of runs, as objects under `_tandem/runs/<name>/`: they outlast Temporal's retention."""

import datetime as dt
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from pipeline.runs.mixed_columns import MixedColumns, mixed_columns
from pipeline.runs.outcomes import outcomes
from pipeline.runs.plan_pages import load_plan
from pipeline.sinks import catalogue
from pipeline.sources.snapshot import load as load_snapshot
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Bug, Damaged, LimitReached, NoRoom, ObjectMissing, TandemError, by_code
from schemas.manifest import BrokenCheck, Counts, Noun, Share
from schemas.messages.base import RunState
from schemas.messages.partition import PartitionResult
from schemas.messages.run import Failure, FinaliseRequest, Page, RunResult, Totals

log = logging.getLogger("tandem.runs")
_PARTITIONS = ("total", "published", "unchanged", "failed", "cancelled", "not_run")


class PartitionCheck(BrokenCheck):
    """A check that rows of a partition break."""

    partition: str


class Gone(Noun):
    """Published partitions and rows that the source has no more."""

    partitions: int = 0
    rows: int = 0


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


def gone(store: Store, plan: str) -> Gone:
    """Count published partitions that are not in the plan's snapshot of the source; none if that cannot be read, as a
    run must end all the same."""
    try:
        present = set(load_snapshot(store, load_plan(store, plan).snapshot).partitions)
        published = catalogue.published(store).select("partition", "manifest", "shape")
    except (TandemError, ValueError, OSError) as exc:
        log.warning("partitions that are gone from the source are not counted: %s", exc)
        return Gone()
    found = Gone()
    for partition, text, shape in published.iter_rows():
        manifest = catalogue.manifest_of(text, shape) if partition not in present else None
        if manifest is not None and manifest.present:
            found = Gone(partitions=found.partitions + 1, rows=found.rows + manifest.counts.out)
    return found


def lost_attempts(store: Store, run: str) -> int:
    return sum(1 for _ in store.list(ids.lost_attempts(run)))


def finalise(store: Store, request: FinaliseRequest, retired: int = 0) -> RunResult:
    """Write the report; `retired` partitions were taken out of the dataset. Counts are summed from the partitions'
    outcomes, so that they span all attempts of the run."""
    earlier = load_report(store, request.ref.run)
    ended = list(_reconciled(store, request))
    totals, failures = summed(request, ended)
    report = Report(
        run=request.ref.run,
        pipeline=request.ref.pipeline,
        state=request.state,
        sink=store.uri,
        plan=request.plan,
        totals=totals,
        failures=tuple(failures),
        checks=broken_checks(ended),
        lost_attempts=lost_attempts(store, request.ref.run),
        gone=gone(store, request.plan) if request.plan else Gone(),
        retired=retired,
        mixed=mixed_columns(store),
        stop=request.stop,
        started_at=earlier.started_at if earlier else _requested_at(store, request),
        finished_at=dt.datetime.now(dt.UTC),
    )
    store.put(ids.report(request.ref.run), report.model_dump_json().encode())
    return RunResult(
        state=report.state,
        report=ids.report(request.ref.run),
        totals=report.totals,
        stop=report.stop,
        recovered=_recovered(store, report),
    )


class LastRun(Noun):
    """The end of a pipeline's last run that was not cancelled; `recovered`: the one before it had failed."""

    run: str
    state: RunState
    recovered: bool = False


def _recovered(store: Store, report: Report) -> bool:
    """Store how the run ended. Returns True if it is the first success after a failure; repeatable."""
    if report.state not in ("completed", "failed"):
        return False
    try:
        last = read_document(store, ids.last_run(), LastRun)
    except (ObjectMissing, Damaged):
        last = LastRun(run="", state="completed")
    if (last.run, last.state) == (report.run, report.state):
        return last.recovered
    recovered = report.state == "completed" and last.state == "failed"
    store.put(
        ids.last_run(), LastRun(run=report.run, state=report.state, recovered=recovered).model_dump_json().encode()
    )
    return recovered


def _reconciled(store: Store, request: FinaliseRequest) -> Iterator[PartitionResult]:
    """Yield the outcomes; a failure of an earlier attempt is over if the plan found the partition published."""
    current: set[str] | None = None
    for result in outcomes(store, request.ref.run):
        if result.outcome in ("failed", "cancelled"):
            if current is None:
                current = _up_to_date(store, request.plan)
            if result.partition in current:
                over = {"outcome": "unchanged", "error": "", "message": "", "counts": Counts(), "checks": ()}
                yield result.model_copy(update=over)
                continue
        yield result


def _up_to_date(store: Store, plan: str) -> set[str]:
    """Return the partitions that a plan leaves out, as they are published already."""
    if not plan:
        return set()
    folder = plan.removesuffix("plan.json")
    pages = (read_document(store, info.key, Page) for info in store.list(f"{folder}page-"))
    return {planned.key for page in pages for planned in page.partitions if not planned.run}


def _requested_at(store: Store, request: FinaliseRequest) -> dt.datetime:
    """Return the time of the run's request: its workflow may be one of several that continued the run."""
    try:
        created_at = orjson.loads(store.get(ids.request(request.ref.run)))["created_at"]
        return min(dt.datetime.fromisoformat(created_at), request.started_at)
    except (ObjectMissing, KeyError, ValueError):
        return request.started_at


def summed(request: FinaliseRequest, ended: Iterable[PartitionResult]) -> tuple[Totals, list[Failure]]:
    """Sum the run's totals and failures. A partition without an outcome was up to date, or was never begun."""
    totals = Totals()
    failures = []
    for result in ended:
        totals = totals.with_result(result)
        if result.error:
            failures.append(Failure(partition=result.partition, error=result.error, message=result.message))
    begun = totals.published + totals.unchanged + totals.failed + totals.cancelled
    not_run = min(request.totals.not_run, max(0, request.totals.total - begun))
    total = max(request.totals.total, begun)
    left = {"total": total, "not_run": not_run, "unchanged": totals.unchanged + total - begun - not_run}
    return totals.model_copy(update=left), failures


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
        },
        "billed_over_needed": report.billed_over_needed,
        **({"billed_over_needed_unknown": report.lost_attempts_note} if report.lost_attempts_note else {}),
        "sink": report.sink,
        "started_at": _iso(report.started_at),
        "finished_at": _iso(report.finished_at),
        "failures": [failure.model_dump() for failure in report.failures],
        "checks": [as_json_check(check) for check in report.checks],
        **({"reason": report.reason} if report.reason else {}),
        **({"cascades": cascades(totals)} if totals.shares else {}),
    }  # fmt: skip


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
