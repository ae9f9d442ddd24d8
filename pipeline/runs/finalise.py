"""The end of a run: its outcomes are summed, and its report is written."""

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Sequence

import orjson
import polars as pl

from pipeline.runs.answering_models import answering_models
from pipeline.runs.job_counts import job_counts
from pipeline.runs.mixed_columns import mixed_columns
from pipeline.runs.plan_pages import load_plan, planned_lines
from pipeline.runs.report import Gone, Report, broken_checks, load_report, lost_attempts
from pipeline.sinks import catalogue, outcomes
from pipeline.sources.snapshot import load as load_snapshot
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Damaged, ObjectMissing, StoreError, TandemError
from schemas.manifest import Counts, Noun
from schemas.messages.base import RunState
from schemas.messages.partition import PartitionResult
from schemas.messages.run import Failure, FinaliseRequest, Page, RunResult, Totals

log = logging.getLogger("tandem.runs")


def finalise(store: Store, request: FinaliseRequest, retired: int = 0, unretired: Sequence[Failure] = ()) -> RunResult:
    """Write the report; `retired` partitions were taken out of the dataset, `unretired` should have been, which fails
    the run. Counts are summed from the partitions' outcomes, so that they span all attempts of the run."""
    earlier = load_report(store, request.ref.run)
    ended = list(_reconciled(store, request))
    totals, failures = summed(request, ended)
    published = _published(store)
    report = Report(
        run=request.ref.run,
        pipeline=request.ref.pipeline,
        state="failed" if unretired and request.state == "completed" else request.state,
        sink=store.uri,
        plan=request.plan,
        totals=totals,
        failures=(*failures, *unretired),
        checks=broken_checks(ended),
        lost_attempts=lost_attempts(store, request.ref.run),
        gone=gone(store, request.plan, published) if request.plan else Gone(),
        retired=retired,
        mixed=mixed_columns(store, published),
        answered_by=answering_models(published),
        jobs=job_counts(store, request.ref.run),
        stop=request.stop,
        started_at=earlier.started_at if earlier else _requested_at(store, request),
        finished_at=dt.datetime.now(dt.UTC),
    )
    store.put(ids.report(request.ref.run), report.model_dump_json().encode())
    _remove(store, ids.announced(request.ref.run))
    if report.state == "completed":  # a run that is not may go on, and its jobs' requests lie there
        _remove(store, ids.parked_folder(request.ref.run))
        _gather_outcomes(store, request.ref.run)
    return RunResult(
        state=report.state,
        report=ids.report(request.ref.run),
        totals=report.totals,
        stop=report.stop,
        recovered=_recovered(store, report),
    )


def _remove(store: Store, folder: str) -> None:
    """Remove what a run needed only while it ran: what its commands told each other, calls that waited for provider
    jobs. A store that refuses does not fail a run that has ended."""
    try:
        if keys := [info.key for info in store.list(folder)]:
            store.delete(keys)
    except StoreError as exc:
        log.warning("%s of %s is not removed: %s", folder, store.uri, exc)


def _gather_outcomes(store: Store, run: str) -> None:
    try:
        outcomes.gather(store, run)
    except StoreError as exc:
        log.warning("the outcomes of %s stay objects of their own: %s", run, exc)


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
    for result in outcomes.outcomes(store, request.ref.run):
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


def _published(store: Store) -> pl.DataFrame:
    """Read the catalogue of all; an empty one if the sink cannot be read, as a run must end all the same."""
    try:
        return catalogue.published(store)
    except (TandemError, ValueError, OSError) as exc:
        log.warning("what is published cannot be read for the report: %s", exc)
        return catalogue.EMPTY


def gone(store: Store, plan: str, published: pl.DataFrame) -> Gone:
    """Count published partitions that are not in the plan's snapshot of the source, and whose files do not wait; none
    if that cannot be read, as a run must end all the same."""
    try:
        loaded = load_plan(store, plan)
        present = set(load_snapshot(store, loaded.snapshot).partitions)
        if loaded.waiting:
            present.update(line.key for line in planned_lines(store, loaded.run, plan))
    except (TandemError, ValueError, OSError) as exc:
        log.warning("partitions that are gone from the source are not counted: %s", exc)
        return Gone()
    found = Gone()
    for partition, text, shape in published.select("partition", "manifest", "shape").iter_rows():
        manifest = catalogue.manifest_of(text, shape) if partition not in present else None
        if manifest is not None and manifest.present:
            found = Gone(partitions=found.partitions + 1, rows=found.rows + manifest.counts.out)
    return found
