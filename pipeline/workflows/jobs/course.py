"""The course of one provider job: submitted once it may be, looked at until it is over or its time is, collected."""

import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import CANCEL_JOBS, COLLECT_JOB, POLL_JOB, SUBMIT_JOB, call
    from pipeline.workflows.policies import LONG
    from schemas.jobs import JobEnd, JobState
    from schemas.messages.jobs import CancelJobs, JobRequest, JobsInput, OpenJob

_LOOKS_FIRST = "looks-before-it-withdraws"  # before, a job that was perhaps created was left alone
_LEAST_WAIT_S = 1.0


class JobCourse:
    """One job. `job` outlives a Temporal execution; `state` is as the provider says; `timed_out`: its time is over."""

    def __init__(self, inputs: JobsInput, job: OpenJob) -> None:
        self.job = job
        self.state: JobState | None = None
        self.is_short = False
        self.is_collecting = False  # or collected: a file that comes now may be too late
        self.is_left = False  # as it was not submitted: nobody follows it any more
        self.parts: tuple[str, ...] = ()  # jobs in its place, as it did not fit its budget
        self._input = inputs
        self._look_again = timedelta(0)

    @property
    def deadline(self) -> float | None:
        """When the job has to be over, in seconds since the epoch."""
        submitted = self.job.submitted_at
        return None if submitted is None else submitted + self._input.terms.deadline_s

    @property
    def timed_out(self) -> bool:
        expired = self.state is not None and self.state.state == "expired"
        return expired or (self.deadline is not None and workflow.now().timestamp() >= self.deadline)

    async def run(
        self,
        of_run: Callable[[], str],
        news: Callable[[], Awaitable[None]],
        short: Callable[[tuple[int, int]], Awaitable[None]],
    ) -> JobEnd | None:
        """Return how it ended; None if it is handed on to another execution, was split, or was never submitted.
        `of_run` returns what is to be done, see `JobsWorkflow`. Raises ActivityError."""
        while self.job.submitted_at is None:
            await workflow.wait_condition(lambda: of_run() != "pause" and (not self.is_short or of_run() != ""))
            if of_run():
                if not self.job.tried or not workflow.patched(_LOOKS_FIRST) or not await self._withdraw(of_run):
                    return None
                break
            await self._submit(of_run, short)
            if self.parts:
                return None
        await news()
        while self.state is None or not self.state.over:
            await self._pause(of_run)
            if of_run() == "renew":
                return None
            if (of_run() or self.timed_out) and of_run() != "pause" and not self.job.cancelled:
                await self._cancel()
            await self._look()
            await news()
        self.is_collecting = True
        return await call(COLLECT_JOB, self._request(), within=LONG)

    def _request(self) -> JobRequest:
        inputs = self._input
        return JobRequest(
            ref=inputs.ref, plan=inputs.plan, pool=inputs.pool, job=self.job.job, looks=self.job.looks,
            day=self.job.day,
        )  # fmt: skip

    async def _submit(self, of_run: Callable[[], str], short: Callable[[tuple[int, int]], Awaitable[None]]) -> None:
        self.job = self.job.model_copy(update={"tried": True})
        progress = await call(SUBMIT_JOB, self._request(), within=LONG)
        self.parts = progress.parts
        if progress.parts or progress.needed is not None:  # nothing was sent
            self.job = self.job.model_copy(update={"tried": False})
        if progress.parts:
            return
        if progress.needed is not None:
            self.is_short = True
            await short(progress.needed)
            return
        self.state, self._look_again = progress.state, timedelta(seconds=progress.look_again_s)
        if progress.state.state == "waiting":
            await self._pause(of_run)
            return
        self.job = self.job.model_copy(update={"submitted_at": workflow.now().timestamp(), "day": progress.day})

    async def _pause(self, of_run: Callable[[], str]) -> None:
        """Wait until the next look, or until something is to be done at once."""
        until = self._look_again
        if self.deadline is not None and not self.job.cancelled:
            until = min(until, timedelta(seconds=max(0.0, self.deadline - workflow.now().timestamp())))
        try:
            await workflow.wait_condition(lambda: self._is_urgent(of_run()), timeout=until)
        except TimeoutError:
            return

    def _is_urgent(self, order: str) -> bool:
        return order == "renew" or (order in ("cancel", "end") and not self.job.cancelled)

    async def _look(self) -> None:
        progress = await call(POLL_JOB, self._request(), within=LONG)
        self.state, self._look_again = progress.state, timedelta(seconds=progress.look_again_s)
        self.job = self.job.model_copy(update={"looks": self.job.looks + 1})

    async def _withdraw(self, of_run: Callable[[], str]) -> bool:
        """Cancel a job of which it is not known whether it was created, until that is known. Returns True then; False
        if it is handed on to another execution first."""
        while of_run() != "renew":
            undecided_s = await self._cancel()
            if undecided_s is None:
                return True
            wait = timedelta(seconds=max(undecided_s, _LEAST_WAIT_S))
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(lambda: of_run() == "renew", timeout=wait)
        return False

    async def _cancel(self) -> float | None:
        """Cancel the job. Returns the seconds after which it may be known whether it was created at all; None if it is
        known, and cancelled."""
        inputs = self._input
        request = CancelJobs(ref=inputs.ref, plan=inputs.plan, pool=inputs.pool, jobs=(self.job.job,))
        done = await call(CANCEL_JOBS, request, within=LONG)
        if done.undecided_s is None:
            self.job = self.job.model_copy(update={"cancelled": True, "looks": 0})
            self._look_again = timedelta(0)
        return done.undecided_s
