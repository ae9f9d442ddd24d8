"""Partitions that wait for provider jobs: what their run and the workflow of the jobs ask for, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment

from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.jobs import JobEnd, JobState
from schemas.messages.base import Concurrency
from schemas.messages.batch import BatchRequest, BatchResult
from schemas.messages.jobs import (
    CancelJobs,
    CancelledJobs,
    FormedJobs,
    FormRequest,
    JobProgress,
    JobRequest,
    JobTerms,
    ParkedCalls,
)
from schemas.messages.partition import OpenRequest
from schemas.messages.run import BudgetCheck, BudgetVerdict
from tests.pipeline.fakes import Bench, Fakes, at_work, beat_until, ended, failed, planned, skipping_time, until

A, B, C, D = "day=2026-11-01", "day=2026-11-02", "day=2026-11-03", "day=2026-11-04"
POOL = "0123456789abcdef"


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


async def is_open(bench: Bench) -> bool:
    """True if the workflow of the jobs is still open."""
    ref = bench.ref
    handle = bench.client.get_workflow_handle(ids.jobs_workflow_id(ref.pipeline, ref.sink, ref.run, POOL))
    return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING


def parks(waves: int) -> Any:
    """A batch whose rows wait for jobs so many times."""

    async def enrich(request: BatchRequest, nth: int) -> BatchResult | None:
        if request.waves.wave >= waves or not request.waves.may_park or request.waves.late != "next-job":
            return None
        file = f"{request.partition}-{request.batch}-{request.waves.wave}"
        return BatchResult(state="parked", parked_calls=ParkedCalls(calls=5, pools=(POOL,), files=(file,)))

    return enrich


def parks_late(partition: str, going: asyncio.Event) -> Any:
    """The same, once; the first batch of one partition only after `going`."""

    async def enrich(request: BatchRequest, nth: int) -> BatchResult | None:
        if request.partition == partition and request.waves.wave == 0:
            await beat_until(going)
        return await parks(1)(request, nth)  # type: ignore[no-any-return]

    return enrich


def a_run(
    *pages: list[Any], waves: int = 1, terms: JobTerms | None = None, canary: Sequence[Any] = (), **on: Any
) -> Fakes:
    hooks = {"enrich_batch": parks(waves), **on}
    windows = Concurrency(partitions=2, batches=2)
    return Fakes(list(pages), canary, windows=windows, jobs=terms or JobTerms(), on=hooks)


async def test_partitions_wait_without_a_child_and_go_in_one_job_a_wave(skipping: WorkflowEnvironment) -> None:
    fakes = a_run(planned(A, B), planned(C, D), waves=3)
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
        assert not await is_open(bench)
    assert result.totals.published == 4
    formed = fakes.of("form_jobs")
    assert [len(request.files) for request in formed] == [8, 8, 8], "a window of two held nobody back"
    assert all(request.closing for request in formed)
    for name in ("submit_job", "poll_job", "collect_job"):
        assert len(fakes.of(name)) == 3
    assert {request.waves.wave for request in fakes.of("enrich_batch", A)} == {0, 1, 2, 3}


async def test_what_is_gathered_is_submitted_after_a_while_though_others_are_at_work() -> None:
    going = asyncio.Event()

    async def enrich(request: BatchRequest, nth: int) -> BatchResult | None:
        if request.partition == B:
            await beat_until(going)
            return None
        return await parks(1)(request, nth)  # type: ignore[no-any-return]

    fakes = a_run(planned(A, B), terms=JobTerms(gather_s=1), enrich_batch=enrich)
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        with env.auto_time_skipping_disabled():
            await until(lambda: bool(fakes.of("collect_job")))
            going.set()
            assert (await ended(handle)).totals.published == 2


async def test_nobody_waits_for_more_calls_where_none_can_come(skipping: WorkflowEnvironment) -> None:
    """Neither a canary, nor the rest."""
    fakes = a_run(planned(A, B), terms=JobTerms(gather_s=36_000), canary=planned(A))
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 2
    times = [at for name, at in fakes.at if name in ("plan", "form_jobs", "finalise")]
    assert len(times) == 4
    assert (times[-1] - times[0]).total_seconds() < 3600


async def test_full_jobs_go_at_once(skipping: WorkflowEnvironment) -> None:
    async def form(request: FormRequest, nth: int) -> FormedJobs:
        jobs = ("full",) if not request.closing else ("full", "rest")
        return FormedJobs(jobs=jobs, limit=10)

    keys = [f"day=2026-11-{day:02d}" for day in range(1, 9)]
    fakes = a_run(planned(*keys), terms=JobTerms(gather_s=36_000), form_jobs=form)
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 8
    assert sorted({request.job for request in fakes.of("submit_job")}) == ["full", "rest"]
    assert len(fakes.of("submit_job")) == 2


async def test_more_waves_than_the_limit_are_asked_live(skipping: WorkflowEnvironment) -> None:
    fakes = a_run(planned(A), waves=99, terms=JobTerms(max_waves=2))
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 1
    assert len(fakes.of("collect_job")) == 2


@pytest.mark.parametrize("after", ["standard", "reject", "next-job"])
async def test_a_job_is_cancelled_at_its_deadline_and_the_rest_goes_as_the_spec_says(
    skipping: WorkflowEnvironment, after: Any
) -> None:
    async def poll(request: JobRequest, nth: int) -> JobProgress:
        over = bool(fakes.of("cancel_jobs")) and request.job != "next"
        state = "cancelled" if over else "ended" if request.job == "next" else "running"
        return JobProgress(state=JobState(job=request.job, state=state, id="b"), look_again_s=600)

    async def collect(request: JobRequest, nth: int) -> JobEnd | None:
        if request.job == "next":
            return None
        return JobEnd(
            job=request.job, id="b", state="cancelled", requests=10, answered=6, given_back=4, again=("again",)
        )

    async def form(request: FormRequest, nth: int) -> FormedJobs | None:
        return FormedJobs(jobs=("next",), limit=1_000) if request.files == ("again",) else None

    fakes = a_run(
        planned(A), terms=JobTerms(deadline_s=3600, after_deadline=after), poll_job=poll, collect_job=collect,
        form_jobs=form,
    )  # fmt: skip
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 1
    assert len(fakes.of("cancel_jobs")) == 1
    assert ("next" in {request.job for request in fakes.of("collect_job")}) is (after == "next-job")
    assert {request.waves.late for request in fakes.of("enrich_batch")} == {"next-job", after}


async def test_calls_that_a_job_gave_back_go_into_the_next_one(skipping: WorkflowEnvironment) -> None:
    async def collect(request: JobRequest, nth: int) -> JobEnd | None:
        if request.job == "second":
            return None
        return JobEnd(job=request.job, id="b", state="ended", requests=10, answered=9, given_back=1, again=("again",))

    async def form(request: FormRequest, nth: int) -> FormedJobs | None:
        return FormedJobs(jobs=("second",), limit=1_000) if request.files == ("again",) else None

    fakes = a_run(planned(A), collect_job=collect, form_jobs=form)
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 1
    assert [request.job for request in fakes.of("collect_job")][-1] == "second"
    begun = [request.waves.wave for request in fakes.of("enrich_batch")]
    assert sorted(set(begun)) == [0, 1], "the partition waits for both"


async def test_a_fatal_error_of_a_job_stops_the_run_by_its_name(skipping: WorkflowEnvironment) -> None:
    async def collect(request: JobRequest, nth: int) -> JobEnd:
        return JobEnd(
            job=request.job, id="b", state="failed", requests=10, given_back=10, again=("again",),
            fatal="openai:m: the provider refuses the key", hint="Check OPENAI_API_KEY.",
        )  # fmt: skip

    fakes = a_run(planned(A), collect_job=collect)
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
        assert not await is_open(bench)
    assert result.stop is not None
    assert (result.stop.error, result.state) == ("FatalModelError", "failed")
    assert "Check OPENAI_API_KEY." in result.stop.message


async def test_a_cancelled_run_cancels_its_jobs_and_collects_what_they_have() -> None:
    async def poll(request: JobRequest, nth: int) -> JobProgress:
        state = "cancelled" if fakes.of("cancel_jobs") else "running"
        return JobProgress(state=JobState(job=request.job, state=state, id="b"), look_again_s=600)

    fakes = a_run(planned(A), poll_job=poll)
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        with env.auto_time_skipping_disabled():
            await until(lambda: bool(fakes.of("submit_job")))
            await handle.cancel()
            result = await ended(handle)
        assert not await is_open(bench)
    assert result.state == "cancelled"
    assert len(fakes.of("cancel_jobs")) == len(fakes.of("collect_job")) == 1
    assert [close.outcome for close in fakes.of("close", A)] == ["waiting", "cancelled"]


async def test_a_cancelled_run_finds_out_whether_a_job_was_created_before_it_ends() -> None:
    """Its creation lost its reply: it is looked for until it is found, or surely is not there."""

    async def submit(request: JobRequest, nth: int) -> JobProgress:
        return JobProgress(state=JobState(job=request.job, state="waiting", wait_s=600), look_again_s=600)

    async def cancel(request: CancelJobs, nth: int) -> CancelledJobs | None:
        return CancelledJobs(jobs=0, undecided_s=60) if len(fakes.of("cancel_jobs")) < 3 else None

    async def poll(request: JobRequest, nth: int) -> JobProgress:
        return JobProgress(state=JobState(job=request.job, state="cancelled", id="b"), look_again_s=600)

    fakes = a_run(planned(A), submit_job=submit, cancel_jobs=cancel, poll_job=poll)
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        with env.auto_time_skipping_disabled():
            await until(lambda: bool(fakes.of("submit_job")))
            await handle.cancel()
        assert (await ended(handle)).state == "cancelled"
        assert not await is_open(bench)
    assert (len(fakes.of("cancel_jobs")), len(fakes.of("collect_job"))) == (3, 1)


async def test_a_partition_with_which_another_run_waits_is_waited_for(skipping: WorkflowEnvironment) -> None:
    async def open_(request: OpenRequest, nth: int) -> None:
        if nth < 3:
            raise failed("PartitionHeld", "held by backfill, which waits for provider jobs")

    fakes = a_run(planned(A), waves=0, open=open_)
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 1
    assert len(fakes.of("open")) == 3
    refused = a_run(planned(A), waves=0, open=open_)
    async with at_work(skipping.client, refused) as bench:
        result = await ended(await bench.start(waits=False))
    assert (result.totals.published, result.totals.not_run) == (0, 1)
    assert [close.message for close in refused.of("close", A)] == ["held by backfill, which waits for provider jobs"]


async def test_a_paused_run_submits_nothing_and_says_what_it_waits_for() -> None:
    fakes = a_run(planned(A), terms=JobTerms(gather_s=2))
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        with env.auto_time_skipping_disabled():
            await until(lambda: len(fakes.of("enrich_batch")) == 2)
            await handle.signal(RunWorkflow.pause, "by hand")
            await until(lambda: bool(fakes.of("form_jobs")))
            await asyncio.sleep(0.5)
            assert not fakes.of("submit_job")
            progress = await handle.query(RunWorkflow.progress)
            assert progress.jobs_text.startswith("1 partition waits for ")
            await handle.signal(RunWorkflow.resume)
            await until(lambda: bool(fakes.of("submit_job")))
        assert (await ended(handle)).totals.published == 1


async def test_a_job_that_fits_in_part_is_submitted_in_part_and_the_rest_when_that_has_ended() -> None:
    """The run pauses meanwhile, and goes on by itself: what the part has cost is less than was reserved."""
    ending = asyncio.Event()

    async def submit(request: JobRequest, nth: int) -> JobProgress | None:
        waiting = JobState(job=request.job, state="waiting")
        if request.job not in ("part", "rest"):
            return JobProgress(state=waiting, look_again_s=0, parts=("part", "rest"))
        if request.job == "rest" and not ending.is_set():
            return JobProgress(state=waiting, look_again_s=0, needed=(5, 7))
        return None

    async def poll(request: JobRequest, nth: int) -> JobProgress:
        over = ending.is_set() or request.job == "rest"
        state = JobState(job=request.job, state="ended" if over else "running", id=request.job)
        return JobProgress(state=state, look_again_s=0.2)

    async def check(request: BudgetCheck, nth: int) -> BudgetVerdict:
        return BudgetVerdict(go_on=False, message="The budget is reached")

    fakes = a_run(planned(A), submit_job=submit, poll_job=poll, reckon=check)
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        with env.auto_time_skipping_disabled():
            async with asyncio.timeout(20):
                while (await handle.query(RunWorkflow.progress)).state != "paused":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            ending.set()
            assert (await ended(handle)).totals.published == 1
    assert {request.job for request in fakes.of("collect_job")} == {"part", "rest"}
    assert {request.waves.wave for request in fakes.of("enrich_batch")} == {0, 1}


async def test_a_job_that_does_not_fit_the_budget_pauses_the_run_until_it_is_raised() -> None:
    async def submit(request: JobRequest, nth: int) -> JobProgress | None:
        if len(fakes.of("submit_job")) > 1:
            return None
        return JobProgress(state=JobState(job=request.job, state="waiting"), look_again_s=0, needed=(5, 7))

    fakes = a_run(planned(A), submit_job=submit)
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        with env.auto_time_skipping_disabled():
            await until(lambda: bool(fakes.of("reckon")))
            (check,) = fakes.of("reckon")
            assert (check.nanos, check.tokens) == (5, 7)
            await handle.signal(RunWorkflow.resume)
            assert (await ended(handle)).totals.published == 1
    assert len(fakes.of("submit_job")) == 2
