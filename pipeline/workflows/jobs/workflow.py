"""JobsWorkflow: the provider batch jobs of one run in one pool (a model, an address, an account).

    partitions that wait ─▶ gather ─▶ form_jobs ─▶ a group: partitions, and the jobs that hold their calls
                                                    each job: submit_job → poll_job … → collect_job
                            all jobs of a group are over ─▶ signal `answers_came` to the run, which begins them again

It outlives a continue-as-new of its run, and continues as new itself: what is out is in `CarriedJobs`. The content of
jobs is in the sink; only names and counts pass through here.
"""

import asyncio
import contextlib
from collections import Counter
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import FORM_JOBS, call, cause_of
    from pipeline.workflows.jobs.course import JobCourse
    from pipeline.workflows.jobs.small_jobs import SmallJobs
    from pipeline.workflows.policies import LONG
    from schemas.errors import FatalModelError, TandemError
    from schemas.jobs import JobEnd
    from schemas.messages.jobs import (
        CarriedJobs,
        FormRequest,
        JobAnswers,
        JobGroup,
        JobNews,
        JobsInput,
        JobsResult,
        OpenJob,
        ParkedPartitionCalls,
    )

_FULL = 50_000  # calls, until the first job says how many it takes
_AGAIN = timedelta(seconds=30)  # before calls that a job gave back go into the next one; doubled, to an hour
_LONGEST = timedelta(hours=1)
_MOST_VAIN = 5  # jobs in a row that answered nothing
# Changes of what is asked for, and in which order: executions that began before them go on as they did.
_ONE_AT_A_TIME = "forms-one-at-a-time"
_ONCE_MORE = "collects-once-more"
_RESTS = "rests-until-it-stops"
_JOINS_ONCE = "joins-small-jobs-once"
_BEGINS_AGAIN = "begins-again"
_STOPS_FORMING = "stops-forming"


@workflow.defn
class JobsWorkflow:
    @workflow.init
    def __init__(self, inputs: JobsInput) -> None:
        carried = inputs.carried
        self._input = inputs
        self._waiting = list(carried.pending)  # partitions whose calls are gathered
        self._since = carried.gathered_since
        self._formed_at = 0  # calls that were gathered when full jobs were formed last
        self._gathered_jobs: set[str] = set(carried.waiting)
        self._groups = list(carried.groups)
        self._courses: dict[str, JobCourse] = {}
        self._small = SmallJobs()
        self._joined = False  # their calls were put together since another job ended, and others came
        self._forming = asyncio.Lock()
        self._once_more: set[str] = set()  # jobs to be collected again: a file came while they were
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit = carried.limit or _FULL
        self._nothing_else = carried.nothing_else
        self._idle = False  # so is the run since the last answers
        self._paused = carried.paused
        self._stop = (
            carried.stop
        )  # end: none is to be out; cancel: those that are out are cancelled, and what they have is kept
        self._forms_no_more = False
        self._renewing = False
        self._error: tuple[str, str] | None = None
        self._vain = carried.vain
        self._ended_jobs = carried.ended
        self._signalled: JobNews | None = None
        self._lost = False  # the run is gone

    @workflow.run
    async def run(self, inputs: JobsInput) -> JobsResult:
        for job in inputs.carried.jobs:
            self._follow(job)
        forming = asyncio.create_task(self._form_jobs())
        try:
            await workflow.wait_condition(self._is_over)
            self._forms_no_more = workflow.patched(_STOPS_FORMING)
            # What is carried on is left whole: a cancel may be lost, or take a signal back that nobody sends again.
            if self._ended() or not self._forms_no_more:
                forming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await forming
            if not self._ended():
                self._renewing = True
                await workflow.wait_condition(lambda: not self._tasks and workflow.all_handlers_finished())
                workflow.continue_as_new(inputs.model_copy(update={"carried": self._carried()}))
        except asyncio.CancelledError:  # somebody cancels it with Temporal's own tools
            self._stop = "cancel"
            await workflow.wait_condition(lambda: not self._tasks)
        if self._error is not None:
            error, message = self._error
            failed = JobAnswers(pool=inputs.pool, partitions=(), error=error, message=message)
            await self._signal("answers_came", failed)
        await self._signal("jobs_ended", inputs.pool)
        needed = self._waiting and not (self._stop or self._lost or self._error)
        if needed and workflow.patched(_BEGINS_AGAIN):  # a resumed run, in the last moment
            workflow.continue_as_new(inputs.model_copy(update={"carried": self._carried()}))
        return JobsResult()

    def _is_over(self) -> bool:
        return self._ended() or workflow.info().is_continue_as_new_suggested()

    def _ended(self) -> bool:
        """True once nothing is out, and the run needs it no more."""
        return not self._tasks and (self._lost or bool(self._stop) or self._error is not None)

    def _carried(self) -> CarriedJobs:
        return CarriedJobs(
            pending=tuple(self._waiting),
            waiting=tuple(sorted(self._gathered_jobs)),
            gathered_since=self._since,
            groups=tuple(self._groups),
            jobs=tuple(course.job for course in self._courses.values()),
            limit=self._limit,
            nothing_else=self._nothing_else,
            paused=self._paused,
            stop=self._stop,
            vain=self._vain,
            ended=self._ended_jobs,
        )

    # Gathering ------------------------------------------------------------------------------------------------------

    async def _form_jobs(self) -> None:
        """Form jobs of what is gathered: full ones at once; of the rest where nothing else of the run is at work, or
        after a while."""
        while await self._has_calls():
            if not self._waiting:
                await self._end_small()
            elif await self._is_gathered():
                await self._form(closing=not self._is_full() or self._nothing_else)

    async def _has_calls(self) -> bool:
        """Wait for calls that go into a job. Returns False once none is formed any more."""
        await workflow.wait_condition(
            lambda: (
                self._forms_no_more
                or ((bool(self._waiting) or self._only_small()) and not self._stop and not self._error)
            )
        )
        return not self._forms_no_more

    async def _is_gathered(self) -> bool:
        """Wait until a job is full, or nothing else comes, or a while is over. Returns False if none is formed any
        more."""
        since = self._since = self._since or workflow.now().timestamp()
        left = since + self._input.terms.gather_s - workflow.now().timestamp()
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._nothing_else or self._forms_no_more or self._is_full(), timeout=max(left, 0.0)
            )
        return not self._forms_no_more

    def _is_full(self) -> bool:
        calls = sum(waiting.parked.calls for waiting in self._waiting)
        return calls - self._formed_at >= self._limit

    async def _form(self, *, closing: bool) -> None:
        gathered = list(self._waiting)
        files = [file for waiting in gathered for file in waiting.parked.files]
        small = self._small.take() if closing else SmallJobs()
        try:
            jobs = await self._jobs_of([*files, *small.files], closing=closing)
        except ActivityError as exc:
            self._failed(exc)
            return
        self._gathered_jobs.update(jobs)
        self._replace_small(small, jobs)
        if not closing:
            self._formed_at = sum(waiting.parked.calls for waiting in gathered)
            return
        self._waiting = self._waiting[len(gathered) :]
        self._since, self._formed_at = None, 0
        partitions = tuple(waiting.partition for waiting in gathered)
        group = JobGroup(partitions=partitions, jobs=tuple(sorted(self._gathered_jobs)))
        self._gathered_jobs = set()
        self._groups.append(group)
        await self._answer_groups()

    async def _jobs_of(self, files: list[str], *, closing: bool) -> list[str]:
        """Form jobs, and follow those that are new. Returns all that hold calls of the files. One after the other: two
        that are formed at once could hold the same call."""
        inputs = self._input
        request = FormRequest(ref=inputs.ref, plan=inputs.plan, pool=inputs.pool, files=tuple(files), closing=closing)
        async with self._forming if workflow.patched(_ONE_AT_A_TIME) else contextlib.nullcontext():
            formed = await call(FORM_JOBS, request, within=LONG)
        self._limit = formed.limit or self._limit
        for job in formed.jobs:
            course = self._courses.get(job)
            if course is None:
                self._follow(OpenJob(job=job))
            elif course.is_collecting and workflow.patched(_ONCE_MORE):
                self._once_more.add(job)
        return list(formed.jobs)

    # Jobs -----------------------------------------------------------------------------------------------------------

    def _follow(self, job: OpenJob) -> None:
        course = self._courses[job.job] = JobCourse(self._input, job)
        task = asyncio.create_task(self._run_job(course))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_job(self, course: JobCourse) -> None:
        """Follow a job until it is collected. What it gives back goes into the next one, or is left as the spec says
        where its time is over."""
        name = course.job.job
        try:
            end = await course.run(self._state_of_run, self._news, self._short)
            if end is None:
                course.is_left = True
                self._take_parts(name, course.parts)
                return  # carried on, never submitted, or split
            is_small = bool(end.least and end.again and not self._stop)
            if is_small and name not in self._once_more:
                self._small.add(end)  # it stays among the courses, as nothing has become of its calls
                await self._news()
                return
            if not is_small:
                await self._take_end(name, end, timed_out=course.timed_out)
        except ActivityError as exc:
            self._failed(exc)
            return
        if self._error is None:
            del self._courses[name]
            if name in self._once_more:
                self._once_more.remove(name)
                self._follow(OpenJob(job=name))
            await self._answer_groups()
            await self._news()

    async def _take_end(self, job: str, end: JobEnd, *, timed_out: bool) -> None:
        """Count a job that ended, and decide about what it gives back."""
        self._joined = False
        self._ended_jobs += 1
        self._vain = 0 if end.answered or end.refused else self._vain + 1
        if end.fatal:
            self._error = "FatalModelError", f"{end.fatal} {end.hint}".strip()
        elif end.again and not self._stop:
            await self._give_on(job, end.again, timed_out=timed_out)

    def _take_parts(self, job: str, parts: tuple[str, ...]) -> None:
        """Follow the jobs in the place of one that did not fit its budget."""
        if not parts:
            return
        del self._courses[job]
        self._replace(job, parts)
        for part in parts:
            if part not in self._courses:
                self._follow(OpenJob(job=part))

    async def _give_on(self, job: str, files: tuple[str, ...], *, timed_out: bool) -> None:
        """Decide about calls that a job gave back without an answer."""
        late = self._input.terms.after_deadline
        if timed_out and late != "next-job":
            self._replace(job, (), late=late)
            return
        if self._vain >= _MOST_VAIN:
            self._error = TandemError.__name__, f"{self._vain} provider jobs in a row have answered nothing."
            return
        if not timed_out:
            await self._rest(min(_AGAIN * 2**self._vain, _LONGEST))
            if self._stop and workflow.patched(_RESTS):
                return
        self._replace(job, tuple(await self._jobs_of(list(files), closing=True)))

    async def _rest(self, time: timedelta) -> None:
        """Wait before calls are asked again, unless they are not."""
        if not workflow.patched(_RESTS):
            await workflow.sleep(time)
            return
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: bool(self._stop or self._error), timeout=time)

    def _only_small(self) -> bool:
        """True if all jobs have too few calls: no other one may bring calls that they can go with."""
        return bool(self._small.jobs) and not self._tasks and self._courses.keys() == self._small.jobs.keys()

    async def _end_small(self) -> None:
        """Wait for further calls; then put the calls of too small jobs together, or, where they are too few still,
        decide about them."""
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: bool(
                    self._waiting
                    or self._stop
                    or self._idle
                    or self._forms_no_more
                    or (self._small.are_enough and not self._joined)
                ),
                timeout=self._input.terms.gather_s,
            )
        if self._waiting or self._stop or self._forms_no_more:
            return
        small, late = self._small.take(), self._input.terms.after_deadline
        if small.are_enough and not self._joined:
            self._joined = workflow.patched(_JOINS_ONCE)
            try:
                self._replace_small(small, await self._jobs_of(small.files, closing=True))
            except ActivityError as exc:
                self._failed(exc)
        elif late == "next-job":
            self._error = FatalModelError.__name__, small.why
        else:
            self._replace_small(small, [], late=late)
            await self._answer_groups()

    def _replace_small(self, small: SmallJobs, by: list[str], *, late: str = "") -> None:
        for job in small.jobs:
            del self._courses[job]
            self._replace(job, tuple(by), late=late)

    def _replace(self, job: str, by: tuple[str, ...], *, late: str = "") -> None:
        """Put other jobs in the place of one, in all groups that wait for it."""
        kept = {job} & {*by, *self._once_more}  # a job is never formed again under its name, but a file may come late
        self._groups = [
            group.model_copy(
                update={"jobs": tuple(sorted({*group.jobs, *by} - {job} | kept)), "late": late or group.late}
            )
            if job in group.jobs
            else group
            for group in self._groups
        ]
        if job in self._gathered_jobs:
            self._gathered_jobs = (self._gathered_jobs - {job}) | {*by}

    def _failed(self, exc: ActivityError) -> None:
        if not is_cancelled_exception(exc):
            self._error = self._error or cause_of(exc)

    # The run --------------------------------------------------------------------------------------------------------

    def _state_of_run(self) -> str:
        """Return what a job has to do: "" go on, `pause` submit nothing, `cancel`, `end`, `renew` hand it on."""
        if self._renewing:
            return "renew"
        return self._stop or ("cancel" if self._error or self._lost else "pause" if self._paused else "")

    async def _answer_groups(self) -> None:
        """Signal the run which partitions have all their answers."""
        over = [group for group in self._groups if not any(job in self._courses for job in group.jobs)]
        self._groups = [group for group in self._groups if group not in over]
        self._idle = self._idle and not over
        for group in over:
            answers = JobAnswers(pool=self._input.pool, partitions=group.partitions, late=group.late)
            await self._signal("answers_came", answers)

    async def _news(self) -> None:
        """Signal the run how far its jobs are, if that has changed."""
        states = [course.state for course in self._courses.values()]
        deadlines = [course.deadline for course in self._courses.values() if course.deadline is not None]
        news = JobNews(
            pool=self._input.pool,
            jobs=len(states),
            requests=sum(state.requests for state in states if state is not None),
            done=sum(state.done + state.failed for state in states if state is not None),
            deadline=min(deadlines, default=None),
            detail=next((state.message for state in states if state is not None and state.message), ""),
            states=dict(Counter("waiting" if state is None else state.state for state in states)),
            ended=self._ended_jobs,
        )
        if news != self._signalled:
            self._signalled = news
            await self._signal("job_news", news)

    async def _short(self, needed: tuple[int, int]) -> None:
        """Signal the run that a job does not fit its budget."""
        await self._signal("job_is_short", self._input.pool, *needed)

    async def _signal(self, name: str, *arguments: object) -> None:
        handle = workflow.get_external_workflow_handle(self._input.run_workflow)
        try:
            await handle.signal(name, args=list(arguments))
        except FailureError:
            self._lost = True  # terminated, or ended: what is out is cancelled, and kept

    def _begin_again(self) -> None:
        """Serve a run that was resumed before this workflow had ended: what is out is of use to it, and its partitions
        park anew what they need."""
        self._stop = ""
        self._waiting, self._groups, self._gathered_jobs = [], [], set()
        self._courses = {name: course for name, course in self._courses.items() if not course.is_left}

    @workflow.signal
    def parked_calls(self, waiting: ParkedPartitionCalls) -> None:
        """Gather the calls of a partition."""
        if (self._stop or self._lost) and workflow.patched(_BEGINS_AGAIN):
            self._begin_again()
        self._lost = False
        self._nothing_else = self._idle = self._joined = False
        self._waiting.append(waiting)

    @workflow.signal
    def nothing_else(self) -> None:
        """Record that everything else of the run waits too: nothing more comes before a job has ended."""
        self._nothing_else = self._idle = True

    @workflow.signal
    def pause(self, paused: bool) -> None:
        self._paused = paused

    @workflow.signal
    def funded(self) -> None:
        """Record that the budget may have room again."""
        for course in self._courses.values():
            course.is_short = False

    @workflow.signal
    def stop(self, how: str) -> None:
        """`end`, or `cancel`: see `_stop`."""
        self._stop = how
