"""RunWorkflow: one run over the partitions of a plan.

    plan → (canary) → for each page of the plan: a window of PartitionWorkflow children → finalise

Continue-as-new comes only between pages, when no child is open (an open child would be terminated). What outlives one
execution is `Carried`.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import (
    ActivityError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows import live_figures
    from pipeline.workflows.activity_calls import PLAN, SET_LIMITS, call, cause_of
    from pipeline.workflows.held_partitions import HeldPartitions
    from pipeline.workflows.jobs.waiting_partitions import WaitingPartitions
    from pipeline.workflows.limits.budget_pause import BudgetPause
    from pipeline.workflows.notifications import Notifications
    from pipeline.workflows.partition import PartitionWorkflow
    from pipeline.workflows.partition_children import (
        Child,
        result_of_cancelled,
        result_of_failed,
        signal_child,
        start_child,
    )
    from pipeline.workflows.policies import SHORT
    from pipeline.workflows.run_steps import (
        MAX_FAILURES,
        canary_refused,
        cancelled_waiting,
        final_state,
        finalise,
        not_run,
        read_page,
        refuse_limits,
        stop_after,
        with_window,
    )
    from schemas.manifest import Counts
    from schemas.messages.base import RunState
    from schemas.messages.jobs import JobAnswers, JobNews, Waves
    from schemas.messages.partition import ParkedPartition, PartitionResult
    from schemas.messages.run import (
        BudgetShortfall,
        CarriedState,
        Failure,
        Page,
        PlannedPartition,
        PlanRef,
        PlanRequest,
        Progress,
        RunInput,
        RunResult,
        SetLimits,
        SetLimitsRequest,
        Totals,
    )

_LATEST = 50
_MAX_HELD = 50
_MAX_PARKED = 300
STATE = SearchAttributeKey.for_keyword("TandemState")
_POOL = "provider jobs "  # before a pool, where a budget names who is short
PAUSED = "paused"  # in the memo: the reason, which can be read there without a worker


@workflow.defn
class RunWorkflow:
    @workflow.init
    def __init__(self, inputs: RunInput) -> None:
        self._input = inputs
        self._carried = inputs.carried
        self._totals = inputs.carried.totals if inputs.carried else Totals()
        self._failures = list(inputs.carried.failures) if inputs.carried else []
        self._stop: Failure | None = None
        self._paused = ""
        self._cancelled = False
        self._running: dict[str, asyncio.Task[None]] = {}
        self._held = HeldPartitions(inputs.ref)  # the running ones that wait for another run
        self._partitions: int | None = None  # requested before there was a plan
        self._parked: dict[str, int] = {}  # the running ones that wait for people, with the number of questions
        self._children: dict[str, Child] = {}
        self._latest: list[PartitionResult] = []
        self._finished = 0
        self._rehearsed = Counts()
        self._planned: PlanRef | None = inputs.carried.plan if inputs.carried else None
        self._hooks = Notifications(inputs.ref, self._planned.hooks if self._planned else ())
        self._note = "planning"
        self._waiting = ""
        self._budget_pause = BudgetPause(inputs.ref)
        self._waiting_for_jobs = WaitingPartitions(inputs.ref)
        self._all_begun = False
        if inputs.carried is not None:
            self._waiting_for_jobs.pools.update(inputs.carried.pools)

    @workflow.run
    async def run(self, inputs: RunInput) -> RunResult:
        started = workflow.info().start_time
        budget_watch = asyncio.create_task(self._budget_pause.watch(self._in_flight, self._show, self._resume_funded))
        idle_watch = asyncio.create_task(self._report_idle())
        for waiting in inputs.carried.waiting if inputs.carried else ():
            self._waiting_for_jobs.resume(waiting)
            self._begin(waiting.partition, rehearsal=False)
        try:
            if self._planned is None:
                self._planned = with_window(await self._plan(), self._partitions)
                self._hooks.events = self._planned.hooks
                total, to_run = self._planned.partitions, self._planned.to_run
                self._totals = Totals(total=total, unchanged=total - to_run)
                if self._planned.canary_rows:
                    await self._canary(self._planned)
            first = self._carried.next_page if self._carried else 0
            for number in range(first, self._planned.pages):
                if self._stop is not None:
                    break
                if number > first and workflow.info().is_continue_as_new_suggested():
                    await self._continue(number)
                await self._page(await read_page(inputs.ref, self._planned, number))
            await self._all_ended(self._planned)
        except (ActivityError, asyncio.CancelledError) as exc:
            # A cancel arrives as the former where an activity is awaited, as asyncio's own anywhere else.
            if not is_cancelled_exception(exc):
                error, message = cause_of(exc)
                self._stop = self._stop or Failure(partition="", error=error, message=message)
            else:
                self._cancelled = True
            await self._cancel_children()
        finally:
            budget_watch.cancel()
            idle_watch.cancel()
        await self._end_jobs()
        live_figures.run_ended()
        result = await self._finalise(started)
        self._hooks.ended(result, result.stop or next(iter(self._failures), None))
        await self._hooks.wait()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return result

    async def _plan(self) -> PlanRef:
        inputs = self._input
        request = PlanRequest(ref=inputs.ref, request=inputs.request, course=inputs.course, code=inputs.code)
        return await call(PLAN, request, waiting=self._wait_for_code)

    def _wait_for_code(self, reason: str) -> None:
        self._waiting = reason
        self._note = f"waiting: {reason}" if reason else "planning"
        workflow.set_current_details(f"{self._input.ref.pipeline}: {self._note}")

    async def _continue(self, page: int) -> None:
        assert self._planned is not None
        # Neither a pause nor a signal half handled would outlive this execution.
        await workflow.wait_condition(lambda: not self._paused and workflow.all_handlers_finished())
        carried = CarriedState(
            plan=self._planned, next_page=page, totals=self._totals, failures=tuple(self._failures[:MAX_FAILURES]),
            waiting=self._waiting_for_jobs.carried(), pools=tuple(sorted(self._waiting_for_jobs.pools)),
        )  # fmt: skip
        workflow.continue_as_new(self._input.model_copy(update={"carried": carried}))

    async def _canary(self, planned: PlanRef) -> None:
        """Run a sample of rows over all partitions first, without publishing; the rest begins once it has passed."""
        self._note = f"canary of {planned.canary_rows:,} rows"
        await self._page(await read_page(self._input.ref, planned, planned.pages), rehearsal=True)
        self._stop = self._stop or canary_refused(self._rehearsed, planned.max_reject_rate)

    # A page: a sliding window of children ---------------------------------------------------------------------------

    async def _page(self, page: Page, *, rehearsal: bool = False) -> None:
        try:
            for planned in page.partitions:
                if not planned.run:
                    continue
                await workflow.wait_condition(lambda: self._stop is not None or (self._has_room() and self._few_wait()))
                if self._stop is not None:
                    break
                self._begin(planned, rehearsal=rehearsal)
                self._show()
            # Later pages do not wait for provider jobs; what comes after a canary does.
            self._all_begun = rehearsal
            await workflow.wait_condition(lambda: not self._running or (not rehearsal and self._only_wait()))
            self._all_begun = False
        except asyncio.CancelledError:
            await self._cancel_children()
            raise

    def _begin(self, planned: PlannedPartition, *, rehearsal: bool) -> None:
        self._running[planned.key] = asyncio.create_task(self._child(planned, rehearsal))

    def _only_wait(self) -> bool:
        """True if no partition has a child: those that are left wait for provider jobs."""
        waiting = self._waiting_for_jobs
        return not waiting.handing_over and self._running.keys() <= waiting.partitions.keys()

    async def _all_ended(self, planned: PlanRef) -> None:
        """Wait for the partitions of all pages."""
        self._all_begun = True
        while self._running:
            await workflow.wait_condition(
                lambda: (
                    not self._running
                    or (self._stop is None and self._only_wait() and workflow.info().is_continue_as_new_suggested())
                )
            )
            if self._running:
                await self._continue(planned.pages)

    async def _report_idle(self) -> None:
        """Signal the jobs each time that everything else of the run waits, too: they need not wait for more calls."""
        while True:
            await workflow.wait_condition(self._is_idle)
            await self._waiting_for_jobs.say_nothing_else()
            await workflow.wait_condition(lambda: not self._is_idle())

    def _is_idle(self) -> bool:
        waiting = self._waiting_for_jobs.partitions
        others = self._running.keys() - self._held.partitions - self._parked.keys() - waiting.keys()
        return self._all_begun and bool(waiting) and not others and not self._waiting_for_jobs.handing_over

    async def _end_jobs(self) -> None:
        """End the workflows of provider jobs. Those that are out when a run ends early are cancelled, and what they
        have answered is kept."""
        if self._waiting_for_jobs.pools:
            how = "cancel" if self._cancelled or self._stop is not None else "end"
            await self._waiting_for_jobs.stop(how)

    def _has_room(self) -> bool:
        """True if another child may be started. Partitions that are held, or wait for people or jobs, take no room."""
        assert self._planned is not None
        waiting = self._waiting_for_jobs.partitions
        running = len(self._running) - len(self._held.partitions) - len(self._parked) - len(waiting)
        return not (self._paused or self._budget_pause.any_over_budget) and running < self._planned.windows.partitions

    def _few_wait(self) -> bool:
        return len(self._held.partitions) < _MAX_HELD and len(self._parked) < _MAX_PARKED

    async def _cancel_children(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        # Each child fences its partition before it ends; the run has not ended before they have.
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _child(self, planned: PlannedPartition, rehearsal: bool) -> None:
        try:
            result = await self._result(planned, rehearsal)
        except asyncio.CancelledError:
            if planned.key not in self._waiting_for_jobs.partitions or self._planned is None or rehearsal:
                return  # it was not begun; without a result it counts as not run
            result = await cancelled_waiting(self._input.ref, self._planned, planned)
        except ChildWorkflowError as exc:
            result = result_of_failed(planned.key, exc)
        finally:
            self._held.forget(planned.key)
            self._waiting_for_jobs.forget(planned.key)
            self._parked.pop(planned.key, None)
            self._children.pop(planned.key, None)
            self._running.pop(planned.key, None)
            self._budget_pause.forget(planned.key)
        if rehearsal and not result.error:
            self._rehearsed += result.counts
            return
        self._totals = self._totals.with_result(result)
        live_figures.partition_ended(result)
        self._finished += 1
        self._latest = [*self._latest, result][-_LATEST:]
        if result.error:
            failure = Failure(partition=planned.key, error=result.error, message=result.message)
            self._failures.append(failure)
            if result.stops_run and self._stop is None:
                self._stop = failure
                for task in self._running.values():
                    task.cancel()
            self._stop = self._stop or stop_after(
                failure, self._totals, self._input.course.max_failures, rehearsal=rehearsal
            )
        self._show()

    async def _result(self, planned: PlannedPartition, rehearsal: bool) -> PartitionResult:
        """Run the child, again each time that provider jobs have answered what it waits for. If another run holds the
        partition, wait for it outside of the window; then `open` decides again whether anything is left to do."""
        assert self._planned is not None
        waves = Waves(most=self._planned.jobs.max_waves if self._planned.jobs else 0)
        if planned.key in self._waiting_for_jobs.partitions:
            waves = await self._next_wave(planned.key)
        while True:
            starting = asyncio.ensure_future(
                start_child(self._input.ref, self._planned, planned, waves, rehearsal=rehearsal)
            )
            try:
                child = await asyncio.shield(starting)
            except asyncio.CancelledError as cancelled:
                return await result_of_cancelled(starting, cancelled)
            except WorkflowAlreadyStartedError:
                holder = await self._held.holder(planned.key)
                if not self._input.waits:
                    return await not_run(self._input.ref, self._planned, planned.key, f"held by {holder}")
                self._note = f"{planned.key} is held by {holder}"
                await self._held.wait(planned.key)
                await self._take_room(planned.key)
                continue
            self._children[planned.key] = child
            if self._paused:
                await signal_child(child, PartitionWorkflow.pause, self._paused)
            result = await child
            if result.outcome != "waiting":
                return result
            del self._children[planned.key]
            if not result.parked.calls:  # another run waits with it
                if not self._input.waits:
                    return await not_run(self._input.ref, self._planned, planned.key, result.message)
                self._note = f"{planned.key} is {result.message}"
                await self._held.wait_for_jobs(planned.key)
                await self._take_room(planned.key)
                continue
            await self._waiting_for_jobs.park(planned, waves, result.parked, self._planned)
            self._show()
            waves = await self._next_wave(planned.key)

    async def _take_room(self, key: str) -> None:
        """Wait for room to begin a partition that was held."""
        while not self._has_room():
            await workflow.wait_condition(self._has_room)
        self._held.release(key)

    async def _next_wave(self, key: str) -> Waves:
        """Wait until provider jobs have answered, and for room to begin the partition again."""
        waves = await self._waiting_for_jobs.answered(key)
        while not self._has_room():
            await workflow.wait_condition(self._has_room)
        self._waiting_for_jobs.forget(key)
        self._show()
        return waves

    # The end --------------------------------------------------------------------------------------------------------

    async def _finalise(self, started: datetime) -> RunResult:
        totals = self._totals
        ended = totals.published + totals.unchanged + totals.failed + totals.cancelled
        self._totals = totals.model_copy(update={"not_run": totals.total - ended})
        if len(workflow.info().typed_search_attributes):
            workflow.upsert_search_attributes([STATE.value_set(self._state())])
        return await finalise(
            self._input.ref, self._planned, self._state(), self._totals, self._failures, self._stop, started
        )

    def _state(self) -> RunState:
        return final_state(self._totals, self._stop, cancelled=self._cancelled)

    def _show(self) -> None:
        totals = self._totals
        done = totals.published + totals.unchanged + totals.failed + totals.cancelled
        self._note = f"{done:,} of {totals.total:,} partitions done, {len(self._running)} running"
        if questions := sum(self._parked.values()):
            self._note += f", {questions:,} answers of people missing (tandem review ls)"
        if waits := self._waiting_for_jobs.text():
            self._note += f", {waits}"
        cause = f". Paused: {self._budget_pause.paused.message}" if self._budget_pause.paused else ""
        self._hooks.budget(self._budget_pause.paused, self._totals)
        live_figures.run_goes_on(self._planned, totals, questions, over_budget=bool(cause))
        workflow.set_current_details(f"{self._input.ref.pipeline}: {self._note}, {totals.failed:,} failed{cause}")

    # Live control ---------------------------------------------------------------------------------------------------

    @workflow.update
    async def set_limits(self, limits: SetLimits) -> None:
        """Change windows while the run goes on. Workers read `rows_in_flight` from an object that they poll."""
        await call(SET_LIMITS, SetLimitsRequest(ref=self._input.ref, limits=limits), within=SHORT)
        self._partitions = limits.partitions or self._partitions
        if self._planned is not None:
            self._planned = with_window(self._planned, limits.partitions)
        if limits.max_cost_usd is not None:
            self._budget_pause.go_on()

    @set_limits.validator
    def _check_limits(self, limits: SetLimits) -> None:
        refuse_limits(limits)

    @workflow.signal
    def freed(self, partition: str) -> None:
        """Record that another run is done with a partition that this run waits for."""
        self._held.freed(partition)

    @workflow.signal
    async def pause(self, reason: str) -> None:
        self._paused = reason or "paused"
        workflow.upsert_memo({PAUSED: self._paused})
        for child in list(self._children.values()):
            await signal_child(child, PartitionWorkflow.pause, self._paused)
        await self._waiting_for_jobs.pause(True)

    @workflow.signal
    async def resume(self) -> None:
        if self._paused:
            self._paused = ""
            workflow.upsert_memo({PAUSED: None})
        self._budget_pause.go_on()
        for child in list(self._children.values()):
            await signal_child(child, PartitionWorkflow.resume)
        await self._waiting_for_jobs.pause(False)

    @workflow.signal
    def parked(self, waiting: ParkedPartition) -> None:
        """Record that a partition waits for people, or goes on."""
        if waiting.questions and waiting.partition in self._running:
            self._parked[waiting.partition] = waiting.questions
            self._hooks.review_needed(self._totals)
        else:
            self._parked.pop(waiting.partition, None)
        self._show()

    @workflow.signal
    def short(self, shortfall: BudgetShortfall) -> None:
        self._budget_pause.note(shortfall)

    @workflow.signal
    def job_is_short(self, pool: str, nanos: int, tokens: int) -> None:
        """Record that a provider job does not fit the budget."""
        self._budget_pause.note(BudgetShortfall(partition=f"{_POOL}{pool}", nanos=nanos, tokens=tokens))

    @workflow.signal
    def answers_came(self, answers: JobAnswers) -> None:
        """Record that provider jobs have answered, or why no further job would."""
        self._waiting_for_jobs.note_answers(answers)
        if answers.error and self._stop is None:
            self._stop = Failure(partition="", error=answers.error, message=answers.message)
            for task in self._running.values():
                task.cancel()

    @workflow.signal
    def job_news(self, news: JobNews) -> None:
        """Show how far provider jobs are."""
        before = self._waiting_for_jobs.news.get(news.pool)
        self._waiting_for_jobs.news[news.pool] = news
        if news.ended and (before is None or before.ended != news.ended):
            self._budget_pause.go_on()  # it has cost less than was reserved
        live_figures.jobs_are(news)
        self._show()

    @workflow.signal
    def jobs_ended(self, pool: str) -> None:
        """Record that the workflow of a pool's jobs has ended."""
        self._waiting_for_jobs.note_end(pool)
        live_figures.jobs_are(JobNews(pool=pool, jobs=0, requests=0, done=0))

    def _in_flight(self) -> set[str]:
        waiting = self._waiting_for_jobs.partitions
        return self._running.keys() - self._held.partitions - self._parked.keys() - waiting.keys()

    async def _resume_funded(self, partitions: Sequence[str]) -> None:
        for pool in [name.removeprefix(_POOL) for name in partitions if name.startswith(_POOL)]:
            await self._waiting_for_jobs.funded(pool)
        for child in [self._children[key] for key in partitions if key in self._children]:
            await signal_child(child, PartitionWorkflow.funded)

    @workflow.query
    def progress(self) -> Progress:
        over_budget = self._budget_pause.paused
        return Progress(
            state="paused" if self._paused or over_budget else "running",
            detail=self._paused or (over_budget.message if over_budget else self._note),
            totals=self._totals,
            rows_total=self._planned.rows if self._planned else 0,
            rows_done=self._totals.counts.rows_in,
            rejected=self._totals.counts.rejected,
            running=tuple(self._running),
            held=tuple(self._held.partitions),
            finished=tuple(self._latest),
            finished_before=self._finished - len(self._latest),
            waits_for_code=self._waiting,
            stop=over_budget,
            jobs=tuple(self._waiting_for_jobs.news.values()),
            waiting_for_jobs=len(self._waiting_for_jobs.partitions),
            jobs_text=self._waiting_for_jobs.text(),
        )
