"""Progress of a run that has not ended: outcomes of ended partitions, call records of the others."""

from collections.abc import Iterator

from pipeline.journal.usage import usage_of_run
from pipeline.limits import ledger
from pipeline.runs.job_counts import job_counts
from pipeline.runs.report import Report, broken_checks, lost_attempts
from pipeline.sinks import outcomes
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import BudgetReached
from schemas.manifest import Usage
from schemas.messages.base import RunState
from schemas.messages.run import Failure, Page, PlannedPartition, Totals
from schemas.plan import RunRequest

_UNTOUCHED = 32  # partitions begin in the order of the plan: after so many without a record there are no more


def live_report(store: Store, request: RunRequest, state: RunState = "running") -> Report:
    """Report the present state. For a run that its budget has stopped, `stop` has the budget's message."""
    totals, failures, ended = Totals(), [], set()
    results = list(outcomes.outcomes(store, request.run))
    for result in results:
        totals = totals.with_result(result)
        ended.add(result.partition)
        if result.error:
            failures.append(Failure(partition=result.partition, error=result.error, message=result.message))
    lines = list(_planned(store, request.run))
    usage = sum((usage for _, usage in _begun(store, request.run, lines, ended)), totals.usage)
    up_to_date = sum(1 for line in lines if not line.run and line.key not in ended)
    found = {"usage": usage, "total": len(lines), "unchanged": totals.unchanged + up_to_date}
    book = ledger.of_run(store, request.run).read()
    paused = book.paused if book is not None else ""
    return Report(
        run=request.run,
        pipeline=request.pipeline,
        state="paused" if paused else state,
        sink=store.uri,
        plan="",
        totals=totals.model_copy(update=found),
        failures=tuple(failures),
        checks=broken_checks(results),
        lost_attempts=lost_attempts(store, request.run),
        jobs=job_counts(store, request.run),
        stop=Failure(partition="", error=BudgetReached.__name__, message=paused) if paused else None,
        started_at=request.created_at,
        finished_at=None,
    )


def usage_so_far(store: Store, run: str) -> Usage:
    """Sum the usage of a run in all its partitions."""
    usage, ended = Usage(), set()
    for result in outcomes.outcomes(store, run):
        usage += result.usage
        ended.add(result.partition)
    return sum((found for _, found in _begun(store, run, list(_planned(store, run)), ended)), usage)


def usage_of_begun(store: Store, run: str, ended: set[str]) -> dict[str, Usage]:
    """Return the usage of each partition that a run has begun and not ended."""
    return dict(_begun(store, run, list(_planned(store, run)), ended))


def _begun(store: Store, run: str, lines: list[PlannedPartition], ended: set[str]) -> Iterator[tuple[str, Usage]]:
    untouched = 0
    for line in lines:
        partition = line.key
        if partition in ended or not line.run:
            continue
        if next(iter(store.list(f"{ids.journal_segments(partition)}{run}/")), None) is None:
            untouched += 1
            if untouched == _UNTOUCHED:
                return
            continue
        untouched = 0
        yield partition, usage_of_run(store, partition, run)


def _planned(store: Store, run: str) -> Iterator[PlannedPartition]:
    """Yield the partitions of a run's plans, each once; if a resumed run has several plans, partitions that a later one
    leaves out as published were begun by an earlier one."""
    found: dict[str, PlannedPartition] = {}
    for info in list(store.list(f"{ids.run_folder(run)}plan-")):
        if "/page-" in info.key:
            for line in read_document(store, info.key, Page).partitions:
                if line.run or line.key not in found:
                    found[line.key] = line
    yield from found.values()
