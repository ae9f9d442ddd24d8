"""The report of a run: sums over all its executions, and nothing of what was mended since."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path

import pytest

from pipeline.cli.screen.summary import summary
from pipeline.planning import builder
from pipeline.runs import plan_pages, requests
from pipeline.runs.finalise import finalise, summed
from pipeline.runs.report import Report, as_json, exit_code, load_report
from pipeline.sinks.outcomes import write_outcome
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.manifest import Counts, Reuse, Usage
from schemas.messages.base import MAX_PAYLOAD_BYTES, Outcome, RunRef, RunState
from schemas.messages.partition import PartitionResult
from schemas.messages.run import Failure, FinaliseRequest, Page, PlannedPartition, Totals
from schemas.plan import Cause, Decision, Selection
from tests.pipeline.jobs import Bench, rows

NOW = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)


def result(key: str, outcome: Outcome, **given: object) -> PartitionResult:
    error = "InputChanged" if outcome == "failed" else "Cancelled" if outcome == "cancelled" else ""
    said = {"partition": key, "outcome": outcome, "error": error, "counts": Counts(rows_in=10), "usage": Usage(calls=4)}
    return PartitionResult.model_validate({**said, **given})


def asked(
    totals: Totals, *, state: RunState = "completed", plan: str = "", store: MemoryStore | None = None
) -> FinaliseRequest:
    ref = RunRef(pipeline="p", run="run-1", sink=store.uri if store else "memory://x")
    return FinaliseRequest(ref=ref, plan=plan, state=state, totals=totals, started_at=NOW)


def test_totals_span_the_executions_of_a_resumed_run() -> None:
    """Three published by the first, which then died; two by the second, whose plan found three up to date."""
    ended = [result(f"d={n}", "published") for n in range(5)]
    totals, failures = summed(asked(Totals(total=5, published=2, unchanged=3)), ended)
    assert (totals.total, totals.published, totals.unchanged, totals.not_run) == (5, 5, 0, 0)
    assert (totals.counts.rows_in, totals.usage.calls, failures) == (50, 20, [])


@pytest.mark.parametrize(
    ("said", "ended", "expected"),
    [
        (Totals(total=6, failed=1, unchanged=2, not_run=3), {"failed": 1}, (6, 0, 2, 1, 0, 3)),
        (Totals(total=6, cancelled=2, unchanged=1, not_run=3), {"cancelled": 2}, (6, 0, 1, 0, 2, 3)),
        (Totals(total=4, unchanged=1, not_run=3), {"cancelled": 1, "published": 1}, (4, 1, 0, 0, 1, 2)),
        (Totals(), {"published": 2}, (2, 2, 0, 0, 0, 0)),
        (Totals(total=3, unchanged=3), {"unchanged": 1}, (3, 0, 3, 0, 0, 0)),
    ],
)
def test_every_partition_of_the_plan_is_in_one_place(
    said: Totals, ended: dict[Outcome, int], expected: tuple[int, ...]
) -> None:
    outcomes = [result(f"{outcome}={n}", outcome) for outcome, count in ended.items() for n in range(count)]
    t, _ = summed(asked(said), outcomes)
    assert (t.total, t.published, t.unchanged, t.failed, t.cancelled, t.not_run) == expected
    assert t.total == t.published + t.unchanged + t.failed + t.cancelled + t.not_run


def test_a_failure_of_an_earlier_attempt_is_over_once_the_plan_finds_the_partition_published() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    write_outcome(store, "run-1", result("d=1", "failed", error="RejectRateExceeded", message="many"))
    write_outcome(store, "run-1", result("d=2", "failed"))
    plan = ids.plan("run-1", "p")
    lines = (PlannedPartition(key="d=1", run=False), PlannedPartition(key="d=2", run=True))
    store.put_new(ids.plan_page(plan, 0), Page(partitions=lines).model_dump_json().encode())
    finalise(store, asked(Totals(total=2, failed=1, unchanged=1), state="failed", plan=plan, store=store))
    report = load_report(store, "run-1")
    assert report is not None
    assert [failure.partition for failure in report.failures] == ["d=2"]
    assert (report.totals.unchanged, report.totals.failed) == (1, 1)
    assert report.totals.usage.calls == 8, "what it cost then was paid all the same"
    assert exit_code(report) == 1


def test_a_run_began_when_it_was_first_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(3))
    assert isinstance(bench.store, MemoryStore)
    request = requests.write_request(bench.store, bench.job().spec, tmp_path, Selection(), "run-1")
    later = asked(Totals(), store=bench.store).model_copy(update={"started_at": request.created_at + dt.timedelta(1)})
    finalise(bench.store, later)
    report = load_report(bench.store, "run-1")
    assert report is not None
    assert report.started_at == request.created_at


def test_a_plans_pages_fit_a_payload_however_long_its_keys_and_reasons(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(3))
    job = bench.job()
    request = requests.write_request(bench.store, job.spec, tmp_path, Selection(), "run-1")
    ref = RunRef(pipeline="tests", run="run-1", sink=bench.store.uri)
    decided = [
        Decision(
            partition=f"a={'x' * 120}/b={'y' * 120}/c={n:0120}",
            run=n % 3 > 0,
            causes=(Cause("stages", "stage changed " * 80),),
            rows=n,
        )
        for n in range(1_000)
    ]
    planned = builder.write_plan(bench.store, ref, request, job, decided)
    pages = [plan_pages.load_page(bench.store, planned.key, number) for number in range(planned.pages)]
    assert [line.key for page in pages for line in page.partitions] == [d.partition for d in decided]
    assert max(len(page.model_dump_json()) for page in pages) <= MAX_PAYLOAD_BYTES
    assert (planned.partitions, planned.to_run) == (1_000, sum(d.run for d in decided))


def test_a_report_tells_what_caches_gave_and_took_and_saved() -> None:
    usage = Usage(calls=3, input_tokens=900, cached_input_tokens=500, cache_write_tokens=100, cache_saved_usd=0.25)
    report = Report(
        run="r", pipeline="p", state="completed", sink="s", plan="", totals=Totals(usage=usage), failures=(), stop=None,
        started_at=dt.datetime.now(dt.UTC), finished_at=None,
    )  # fmt: skip
    found = as_json(report)["usage"]
    assert (found["cache_read_tokens"], found["cache_write_tokens"], found["saved_usd"]["cache"]) == (500, 100, 0.25)
    assert list(found["saved_usd"]) == ["journal", "cache", "batch"]
    assert any("500 tokens read, 100 written" in line for line in summary(report))


def test_the_reason_that_stopped_a_run_comes_before_the_partitions_that_it_cancelled() -> None:
    """Where a partition has stopped the run, the reason is that partition's, and is shown once."""
    failed = Failure(partition="d=1", error="Cancelled", message="the run was cancelled")
    of_run = Failure(partition="", error="FatalModelError", message="7 calls are left")
    for stop, shown in ((of_run, ["run", "d=1"]), (failed, ["d=1"]), (None, ["d=1"])):
        store = MemoryStore(uuid.uuid4().hex)
        write_outcome(store, "run-1", result("d=1", "cancelled"))
        request = asked(Totals(total=1), state="failed", store=store)
        finalise(store, request.model_copy(update={"stop": stop, "failures": (failed,)}))
        report = load_report(store, "run-1")
        assert report is not None
        assert [line.split()[1].rstrip(":") for line in summary(report) if line.startswith("✗")] == shown


def test_a_lost_attempt_makes_what_was_paid_twice_unknown() -> None:
    """A worker died elsewhere: what it had paid for and not flushed is in nobody's count."""
    store = MemoryStore(uuid.uuid4().hex)
    write_outcome(store, "run-1", result("d=1", "published"))
    finalise(store, asked(Totals(total=1), store=store))
    before = load_report(store, "run-1")
    assert before is not None
    assert (before.billed_over_needed, before.lost_attempts_note) == (1.0, "")
    store.put(ids.lost_attempt("run-1", "d=1", 0, 1), b"{}")
    finalise(store, asked(Totals(total=1), store=store))
    report = load_report(store, "run-1")
    assert report is not None
    said = as_json(report)
    assert said["billed_over_needed"] is None
    assert "1 attempt(s) of batches died with a worker" in said["billed_over_needed_unknown"]


def test_rows_of_partitions_that_failed_first_are_unfinished_until_they_are_published() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    write_outcome(store, "run-1", result("d=1", "published", counts=Counts(rows_in=10, ok=10, out=10)))
    write_outcome(store, "run-1", result("d=2", "failed", counts=Counts(rows_in=7, unfinished=7)))
    finalise(store, asked(Totals(total=2), state="failed", store=store))
    report = load_report(store, "run-1")
    assert report is not None
    counts = report.totals.counts
    assert (counts.rows_in, counts.ok, counts.unfinished, counts.out, counts.add_up) == (17, 10, 7, 10, True)


def test_a_bug_in_a_partition_is_exit_70() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    write_outcome(store, "run-1", result("d=1", "failed", error="Bug", message="KeyError in publish"))
    finalise(store, asked(Totals(total=1), state="failed", store=store))
    report = load_report(store, "run-1")
    assert report is not None
    assert exit_code(report) == 70


def test_what_the_journal_saved_is_estimated_by_what_was_paid() -> None:
    """Of 10 rows 4 were paid, at 0.5 USD each by 8 calls: 6 rows and 2 calls were not."""
    totals = Totals(
        counts=Counts(rows_in=10, ok=10, out=10), usage=Usage(calls=8, cost_usd=2.0),
        reuse=Reuse(rows_reused=5, rows_shared=1, calls_reused=2),
    )  # fmt: skip
    report = Report(
        run="r", pipeline="p", state="completed", sink="s", plan="", totals=totals, failures=(), stop=None,
        started_at=NOW, finished_at=None,
    )  # fmt: skip
    assert as_json(report)["usage"]["saved_usd"]["journal"] == 6 * 0.5 + 2 * 0.25
