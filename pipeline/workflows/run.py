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
    from pipeline.workflows.budget_pause import BudgetPause
    from pipeline.workflows.held_partitions import HeldPartitions
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

    @workflow.run
    async def run(self, inputs: RunInput) -> RunResult:
        started = workflow.info().start_time
        budget_watch = asyncio.create_task(self._budget_pause.watch(self._in_flight, self._show, self._resume_funded))
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
        except (ActivityError, asyncio.CancelledError) as exc:
            # A cancel arrives as the former where an activity is awaited, as asyncio's own anywhere else.
            if not is_cancelled_exception(exc):
                error, message = cause_of(exc)
                self._stop = self._stop or Failure(partition="", error=error, message=message)
            else:
                self._cancelled = True
        finally:
            budget_watch.cancel()
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
            plan=self._planned, next_page=page, totals=self._totals, failures=tuple(self._failures[:MAX_FAILURES])
        )
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
                self._running[planned.key] = asyncio.create_task(self._child(planned, rehearsal))
                self._show()
            await workflow.wait_condition(lambda: not self._running)
        except asyncio.CancelledError:
            await self._cancel_children()
            raise

    def _has_room(self) -> bool:
        """True if another child may be started. Partitions that are held, or wait for people, take no room."""
        assert self._planned is not None
        running = len(self._running) - len(self._held.partitions) - len(self._parked)
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
            return  # it was not begun; without a result it counts as not run
        except ChildWorkflowError as exc:
            result = result_of_failed(planned.key, exc)
        finally:
            self._held.forget(planned.key)
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
        """Run the child. If another run holds the partition, wait for it outside of the window; then `open` decides
        again whether anything is left to do."""
        while True:
            assert self._planned is not None
            starting = asyncio.ensure_future(start_child(self._input.ref, self._planned, planned, rehearsal=rehearsal))
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
                while not self._has_room():
                    await workflow.wait_condition(self._has_room)
                self._held.release(planned.key)
                continue
            self._children[planned.key] = child
            if self._paused:
                await signal_child(child, PartitionWorkflow.pause, self._paused)
            return await child

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

    @workflow.signal
    async def resume(self) -> None:
        if self._paused:
            self._paused = ""
            workflow.upsert_memo({PAUSED: None})
        self._budget_pause.go_on()
        for child in list(self._children.values()):
            await signal_child(child, PartitionWorkflow.resume)

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

    def _in_flight(self) -> set[str]:
        return self._running.keys() - self._held.partitions - self._parked.keys()

    async def _resume_funded(self, partitions: Sequence[str]) -> None:
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
        )
