"""Provider jobs and partitions that come at the same moment: no call is in two jobs, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from schemas.jobs import JobEnd, JobState
from schemas.messages.batch import BatchRequest, BatchResult
from schemas.messages.jobs import FormedJobs, FormRequest, JobProgress, JobRequest, JobTerms
from tests.pipeline.fakes import at_work, beat_until, ended, planned, skipping_time, until
from tests.pipeline.workflows.test_jobs import A, B, a_run, is_open, parks, parks_late


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


async def test_jobs_are_formed_one_after_the_other(skipping: WorkflowEnvironment) -> None:
    """Two that are formed at once may hold one call: what a job gave back, and what a partition parks just then."""
    going = asyncio.Event()

    async def poll(request: JobRequest, nth: int) -> JobProgress | None:
        state = JobState(job=request.job, state="expired", id="b")
        return JobProgress(state=state, look_again_s=1) if request.job != "next" else None

    async def collect(request: JobRequest, nth: int) -> JobEnd | None:
        if nth > 1:
            return None
        return JobEnd(job=request.job, id="b", state="expired", requests=10, answered=6, given_back=4, again=("again",))

    async def form(request: FormRequest, nth: int) -> FormedJobs | None:
        if request.files != ("again",):
            return None
        going.set()
        await asyncio.sleep(1.5)
        return FormedJobs(jobs=("next",), limit=1_000)

    fakes = a_run(
        planned(A, B), terms=JobTerms(gather_s=1), enrich_batch=parks_late(B, going), poll_job=poll,
        collect_job=collect, form_jobs=form,
    )  # fmt: skip
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 2
    assert len(fakes.of("form_jobs")) >= 3
    assert fakes.most["form_jobs"] == 1


async def test_a_cancelled_run_does_not_wait_until_calls_are_asked_again() -> None:
    """Nothing is out at the provider: what a job gave back goes into no other one any more."""

    async def collect(request: JobRequest, nth: int) -> JobEnd:
        return JobEnd(job=request.job, id="b", state="ended", requests=10, given_back=10, again=("again",))

    fakes = a_run(planned(A), collect_job=collect)
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        with env.auto_time_skipping_disabled():
            await until(lambda: bool(fakes.of("collect_job")))
            await handle.cancel()
            assert (await ended(handle, 20)).state == "cancelled"
        assert not await is_open(bench)
    assert len(fakes.of("form_jobs")) == 1


async def test_a_partition_whose_calls_a_job_answered_that_is_just_collected_waits_for_them() -> None:
    """Its file came after the job's last look for late ones: the job is collected once more, and asked nothing."""
    going = asyncio.Event()

    async def collect(request: JobRequest, nth: int) -> JobEnd | None:
        if request.job != "first" or len([one for one in fakes.of("collect_job") if one.job == "first"]) > 1:
            return None
        going.set()
        return JobEnd(job="first", id="b", state="ended", requests=10, answered=6, given_back=4, again=("again",))

    async def form(request: FormRequest, nth: int) -> FormedJobs:
        return FormedJobs(jobs=("next",) if request.files == ("again",) else ("first",), limit=1_000)

    fakes = a_run(
        planned(A, B),
        terms=JobTerms(gather_s=1),
        enrich_batch=parks_late(B, going),
        collect_job=collect,
        form_jobs=form,
    )
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 2
    files = [request.files for request in fakes.of("form_jobs")]
    assert files.index(("again",)) == len(files) - 1, "the other partition came before"
    assert [request.job for request in fakes.of("collect_job")].count("first") == 2
    begun = [
        at
        for (name, at), (_, request) in zip(fakes.at, fakes.calls, strict=True)
        if name == "enrich_batch" and request.waves.wave
    ]
    collected = [at for name, at in fakes.at if name == "collect_job"]
    assert max(collected) <= min(begun)


async def test_a_run_that_is_resumed_while_its_jobs_are_still_being_cancelled_has_jobs_again() -> None:
    """The provider takes longer to cancel than the run waits for it; a partition that parks meanwhile is served."""
    resumed, over = asyncio.Event(), asyncio.Event()

    async def enrich(request: BatchRequest, nth: int) -> BatchResult | None:
        if request.partition == B:
            await beat_until(resumed)
        return await parks(1)(request, nth)  # type: ignore[no-any-return]

    async def poll(request: JobRequest, nth: int) -> JobProgress:
        state = "cancelled" if over.is_set() else "running"
        return JobProgress(state=JobState(job=request.job, state=state, id="b"), look_again_s=300)

    fakes = a_run(planned(A, B), terms=JobTerms(gather_s=0.5), enrich_batch=enrich, poll_job=poll)
    async with skipping_time() as env, at_work(env.client, fakes) as bench:
        handle = await bench.start()
        await until(lambda: bool(fakes.of("submit_job")))
        await handle.cancel()
        assert (await ended(handle)).state == "cancelled"
        assert await is_open(bench)
        resumed.set()
        asked = len(fakes.of("enrich_batch"))
        handle = await bench.start()
        await until(lambda: len(fakes.of("enrich_batch")) == asked + 4)
        await asyncio.sleep(0.5)
        over.set()
        assert (await ended(handle)).totals.published == 2
        assert not await is_open(bench)
