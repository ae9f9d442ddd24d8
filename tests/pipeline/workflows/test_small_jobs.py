"""Jobs with fewer calls than their provider takes: their calls go with others, or the spec decides about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from schemas.jobs import JobEnd
from schemas.messages.jobs import FormedJobs, FormRequest, JobRequest, JobTerms
from tests.pipeline.fakes import at_work, ended, planned, skipping_time
from tests.pipeline.workflows.test_jobs import A, B, a_run, is_open, parks_late


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


def small(least: int = 100, calls: int = 5, only: Sequence[str] = ()) -> Any:
    """The end of a job that had too few calls; `only`: of these jobs."""

    async def collect(request: JobRequest, nth: int) -> JobEnd | None:
        if only and request.job not in only:
            return None
        again = (f"again-{request.job}",)
        return JobEnd(
            job=request.job, id="", state="failed", requests=calls, given_back=calls, again=again, least=least
        )

    return collect


@pytest.mark.parametrize("after", ["standard", "reject"])
async def test_calls_that_are_too_few_for_a_job_are_decided_as_those_of_a_late_one(
    skipping: WorkflowEnvironment, after: Any
) -> None:
    """Nothing else of the run may bring calls that they could go with."""
    fakes = a_run(planned(A), terms=JobTerms(after_deadline=after), collect_job=small())
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 1
    assert len(fakes.of("form_jobs")) == 1
    assert [request.waves.late for request in fakes.of("enrich_batch")][-1] == after


async def test_calls_that_are_too_few_for_a_job_stop_a_run_that_may_not_ask_them_live(
    skipping: WorkflowEnvironment,
) -> None:
    """The full price is not paid unasked: the numbers and the ways on are named."""
    fakes = a_run(planned(A), collect_job=small())
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
        assert not await is_open(bench)
    assert result.stop is not None
    assert "5 calls are left, and the provider takes no job with fewer than 100" in result.stop.message
    assert "limits.after_deadline: standard" in result.stop.message


async def test_calls_that_were_too_few_go_with_those_that_come_later(skipping: WorkflowEnvironment) -> None:
    """One partition is still at work: its calls and the others' are one job, and nothing is asked live."""
    going = asyncio.Event()

    async def collect(request: JobRequest, nth: int) -> JobEnd | None:
        asyncio.get_running_loop().call_later(0.5, going.set)  # once the workflow has its end
        return await small()(request, nth) if nth == 1 else None

    fakes = a_run(planned(A, B), terms=JobTerms(gather_s=2), enrich_batch=parks_late(B, going), collect_job=collect)
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 2
    first, *_, last = fakes.of("form_jobs")
    assert all(file.startswith(A) for file in first.files)
    assert any(file.startswith("again-") for file in last.files)
    assert any(file.startswith(B) for file in last.files)
    assert {request.waves.late for request in fakes.of("enrich_batch")} == {"next-job"}


async def test_jobs_with_too_few_calls_are_put_together(skipping: WorkflowEnvironment) -> None:
    """Two of them have enough for one: it is formed at once."""

    async def form(request: FormRequest, nth: int) -> FormedJobs | None:
        name = "both" if any(file.startswith("again-") for file in request.files) else None
        return FormedJobs(jobs=(name,) if name else ("one", "two"), limit=1_000)

    fakes = a_run(planned(A), form_jobs=form, collect_job=small(least=10, only=("one", "two")))
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 1
    assert sorted(fakes.of("form_jobs")[-1].files) == ["again-one", "again-two"]
    assert [request.job for request in fakes.of("collect_job")][-1] == "both"


@pytest.mark.parametrize("after", ["next-job", "standard"])
async def test_calls_that_are_in_too_small_jobs_however_they_are_put_together_are_decided(
    skipping: WorkflowEnvironment, after: Any
) -> None:
    """They are enough for one job by their number, and too large to be in one: they are not formed again for ever."""

    async def form(request: FormRequest, nth: int) -> FormedJobs:
        return FormedJobs(jobs=(f"one-{nth}", f"two-{nth}"), limit=1_000)

    fakes = a_run(planned(A), terms=JobTerms(after_deadline=after), form_jobs=form, collect_job=small(least=10))
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert len(fakes.of("form_jobs")) == 2
    assert (result.totals.published, result.stop is None) == ((1, True) if after == "standard" else (0, False))
    assert result.stop is None or "too large to go in jobs of 10 or more" in result.stop.message
