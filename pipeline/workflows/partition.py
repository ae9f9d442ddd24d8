"""PartitionWorkflow: one partition, from its rows to a committed generation.

    open → a window of enrich_batch → publish            (lost the commit to other content: once more, from the journal)
      │        │                       └ a wait is a result: sleep, schedule the batch again
      │        └ rows wait for a person (pending: wait): wait as long as it takes, then these batches once more
      ├ a small partition: `open` does all of it, or as much as can be done at once
      └ cancelled or failed: close, with a tombstone where it was cancelled

It returns the outcome of the partition, also when it failed: one failed partition never fails its siblings.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows import live_figures
    from pipeline.workflows.activity_calls import (
        ANSWERS,
        ENRICH,
        OPEN,
        call,
        cause_of,
        stop_if_cancel_was_lost,
        stop_if_cancelled,
    )
    from pipeline.workflows.limits.budget_pause import PartitionBudget
    from pipeline.workflows.partition_steps import all_ended, close, publish, report_questions, run_row
    from schemas.errors import Cancelled, CommitConflict, PartitionHeld, by_code
    from schemas.messages.base import Outcome
    from schemas.messages.batch import BatchRequest, BatchResult, RowsOfBatch, Spent
    from schemas.messages.jobs import ParkedCalls
    from schemas.messages.partition import (
        AnswersRequest,
        CloseRequest,
        Opened,
        OpenRequest,
        PartitionInput,
        PartitionResult,
        PublishRequest,
    )
    from schemas.messages.run import Progress, Totals

_REOPENS = 1
_HANDED_BACK = timedelta(seconds=0.5)
_LONGEST_FLOOR = timedelta(minutes=1)
# People take minutes or weeks. Looking for their answers after a tenth of the time waited so far is soon enough, and
# some 2,000 events of history a month. `tandem review answer` signals new answers, so polling is only the fallback.
_ROWS_AT_ONCE = 50
_ROW_HELD = timedelta(seconds=5)
_FIRST_LOOK = timedelta(seconds=5)
_LAST_LOOK = timedelta(hours=6)


@workflow.defn
class PartitionWorkflow:
    def __init__(self) -> None:
        self._rows = 0
        self._filtered = 0
        self._finished: dict[int, BatchResult] = {}
        self._new_answers = False
        self._paused = ""
        self._window = 1
        self._waiting = ""
        self._code = ""
        self._spent = Spent()
        self._base = -1
        self._wanted_by: set[str] = set()
        self._short = PartitionBudget()
        self._parked_calls = ParkedCalls()

    @workflow.run
    async def run(self, partition_input: PartitionInput) -> PartitionResult:
        self._input = partition_input
        self._window = partition_input.windows.batches
        self._rows = partition_input.rows
        budget_reports = asyncio.create_task(self._short.report(partition_input.partition))
        try:
            result = await self._run_to_end()
        finally:
            budget_reports.cancel()
            await self._free()
        live_figures.rows_done(0)
        return result

    async def _run_to_end(self) -> PartitionResult:
        try:
            return await self._run_and_publish()
        except (ActivityError, ChildWorkflowError, asyncio.CancelledError) as exc:
            # A cancel arrives as the former where an activity is awaited, as asyncio's own anywhere else.
            if is_cancelled_exception(exc):
                return await self._close("cancelled", Cancelled.__name__, "the run was cancelled", fence=True)
            error, message = cause_of(exc)
            if by_code(error) is PartitionHeld:
                return PartitionResult(partition=self._input.partition, outcome="waiting", message=message)
            return await self._close(
                "cancelled" if by_code(error) is Cancelled else "failed", error, message, fence=False
            )

    async def _free(self) -> None:
        """Signal the runs that wait for this partition. A run that has ended meanwhile needs no signal."""
        while self._wanted_by:
            run = min(self._wanted_by)
            self._wanted_by.discard(run)
            with contextlib.suppress(FailureError):
                await workflow.get_external_workflow_handle(run).signal("freed", self._input.partition)

    async def _run_and_publish(self) -> PartitionResult:
        lost_to: int | None = None
        for attempt in range(_REOPENS + 1):
            self._finished = {}
            opened = await self._open(lost_to)
            if opened.up_to_date:  # by now; recorded, as an earlier attempt may have left another outcome
                closed = await self._close("unchanged", "", "", fence=False)
                return closed.model_copy(update={"generation": opened.base or None})
            self._base, self._rows, self._filtered = opened.base, opened.rows, opened.filtered
            begun = opened.onward.batch if opened.onward is not None else None
            if opened.onward is not None and opened.onward.published is not None:
                self._take(0, opened.onward.batch)
                return opened.onward.published
            stop_if_cancelled()
            await self._enrich(opened, range(opened.batches), answered=False, begun=begun)
            while not self._parked_calls.calls and (parked := self._parked()):
                await self._wait_for_answers(opened)
                await self._enrich(opened, parked, answered=True)
            if self._parked_calls.calls:  # its run begins it again once provider jobs have answered
                waiting = await self._close("waiting", "", "", fence=False)
                return waiting.model_copy(update={"parked": self._parked_calls})
            self._show("publishing")
            try:
                return await self._publish(opened)
            except ActivityError as exc:
                if by_code(cause_of(exc)[0]) is not CommitConflict or attempt == _REOPENS:
                    raise
                lost_to = opened.base
        raise AssertionError("unreachable")

    async def _open(self, lost_to: int | None) -> Opened:
        inputs = self._input
        onward = inputs.small and lost_to is None and not self._paused and not self._short
        request = OpenRequest(
            ref=inputs.ref, plan=inputs.plan, partition=inputs.partition, limit=inputs.rows, lost_to=lost_to,
            onward=onward, waves=inputs.waves,
        )  # fmt: skip
        if not onward:
            return await call(OPEN, request, waiting=self._wait_for_code)
        self._short.in_flight += 1
        try:
            return await call(OPEN, request, whole=True, waiting=self._wait_for_code)
        finally:
            self._short.in_flight -= 1

    def _wait_for_code(self, reason: str) -> None:
        self._code = reason
        self._show(f"waiting: {reason}" if reason else "opening")

    def _parked(self) -> list[int]:
        """Return the batches with rows that block the publication until a person has answered; a rehearsal has none."""
        if self._input.rehearsal:
            return []
        return sorted(number for number, result in self._finished.items() if result.parked)

    def _receipts(self, opened: Opened) -> tuple[str, ...]:
        return tuple(self._finished[number].receipt for number in range(opened.batches))

    async def _wait_for_answers(self, opened: Opened) -> None:
        """Wait until people have answered every question that blocks the publication."""
        inputs = self._input
        request = AnswersRequest(
            ref=inputs.ref, plan=inputs.plan, partition=inputs.partition, opened=opened.opened,
            receipts=self._receipts(opened), tell=True,
        )  # fmt: skip
        since = workflow.now()
        try:
            while (reply := await call(ANSWERS, request)).missing:
                if request.tell:
                    await report_questions(inputs.partition, reply.missing)
                request = request.model_copy(update={"tell": False})
                s = "" if reply.missing == 1 else "s"
                self._waiting = f"{reply.missing:,} answer{s} of a person (tandem review ls)"
                self._show(f"waiting: {self._waiting}")
                self._new_answers = False
                interval = min(max((workflow.now() - since) / 10, _FIRST_LOOK), _LAST_LOOK)
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(lambda: self._new_answers, timeout=interval)
                stop_if_cancel_was_lost()
        finally:
            self._waiting = ""
        if not request.tell:
            await report_questions(inputs.partition, 0)

    async def _enrich(
        self, opened: Opened, numbers: Iterable[int], *, answered: bool, begun: BatchResult | None = None
    ) -> None:
        """Run these batches, at most a window of them at once. Whatever happens, all have ended afterwards: what they
        flush at their end is in the journal before the next step. `begun`: the result of a batch that was run."""
        for number in numbers:
            self._finished.pop(number, None)
        running: set[asyncio.Task[None]] = set()
        failed: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            if not task.cancelled() and (exc := task.exception()) is not None:
                failed.append(exc)

        try:
            for number in numbers:
                await workflow.wait_condition(
                    lambda: bool(failed) or (len(running) < self._window and not self._paused and not self._short)
                )
                if failed:
                    break
                task = asyncio.create_task(self._batch(opened, number, answered, begun))
                running.add(task)
                task.add_done_callback(ended)
            await workflow.wait_condition(lambda: bool(failed) or not running)
            if failed:
                raise failed[0]
        finally:
            for task in tuple(running):
                task.cancel()
            await all_ended(running)

    async def _batch(self, opened: Opened, number: int, answered: bool, begun: BatchResult | None) -> None:
        inputs = self._input
        request = BatchRequest(
            ref=inputs.ref, plan=inputs.plan, partition=inputs.partition, opened=opened.opened, batch=number,
            answered=answered, waves=inputs.waves,
        )  # fmt: skip
        floor = _HANDED_BACK
        while True:
            result, begun = begun or await self._run_batch(request), None
            if result.state == "short":
                self._short.note(result.needed)
            self._take(number, result)
            if result.state == "done":
                return
            stop_if_cancelled()
            parked = result.parked_calls
            if result.by_row is not None:
                parked = await self._by_row(request, result.by_row)
                if not parked.calls:
                    continue
            if parked.calls:
                self._parked_calls += parked
                return
            if result.state == "short":
                self._show("short of money")
                await workflow.wait_condition(lambda: not self._paused and not self._short)
                continue
            pause = floor
            if result.state == "waiting" and result.until is not None:
                self._waiting = result.reason
                self._show(f"waiting: {result.reason}")
                pause = max(result.until - workflow.now(), floor)
            # Each round adds events to the history, so a batch that waits repeatedly is scheduled less and less often.
            floor = min(2 * floor, _LONGEST_FLOOR)
            await workflow.sleep(pause)
            await workflow.wait_condition(lambda: not self._paused and not self._short)

    async def _run_batch(self, request: BatchRequest) -> BatchResult:
        self._short.in_flight += 1
        try:
            return await call(ENRICH, request, whole=True, waiting=self._wait_for_code)
        finally:
            self._short.in_flight -= 1

    def _take(self, number: int, result: BatchResult) -> None:
        """Add what a batch has cost, and its rows if it is done."""
        self._spent += result.spent
        if result.state == "done":
            self._finished[number] = result
            self._waiting = ""
            self._show(f"{self._done:,} of {self._rows:,} rows")
            live_figures.rows_done(self._done)

    async def _by_row(self, batch: BatchRequest, rows: RowsOfBatch) -> ParkedCalls:
        """Run each row in its own workflow, a window of them at once. As with batches, all have ended afterwards.
        Returns the calls of rows that wait for provider jobs."""
        room = asyncio.Semaphore(_ROWS_AT_ONCE)
        parked = ParkedCalls()

        async def one(number: int) -> None:
            nonlocal parked
            async with room:
                calls = await self._row(batch, rows, number)
            parked += calls

        tasks = [asyncio.create_task(one(number)) for number in range(len(rows.ids))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await all_ended(set(tasks))
        return parked

    async def _row(self, batch: BatchRequest, rows: RowsOfBatch, number: int) -> ParkedCalls:
        request = rows.row_of(batch, number)
        while True:
            await workflow.wait_condition(lambda: not self._paused and not self._short)
            self._short.in_flight += 1
            try:
                result = await run_row(request)
                self._spent += result.spent
                if result.short:
                    self._short.note(result.needed)
            except WorkflowAlreadyStartedError:  # of a partition workflow that was terminated: it is being cancelled
                await workflow.sleep(_ROW_HELD)
                continue
            finally:
                self._short.in_flight -= 1
            if not result.short:
                return result.parked_calls
            stop_if_cancelled()

    async def _publish(self, opened: Opened) -> PartitionResult:
        inputs = self._input
        request = PublishRequest(
            ref=inputs.ref,
            plan=inputs.plan,
            partition=inputs.partition,
            opened=opened.opened,
            receipts=self._receipts(opened),
            rehearsal=inputs.rehearsal,
        )
        return await publish(request, self._wait_for_code)

    async def _close(self, outcome: Outcome, error: str, message: str, *, fence: bool) -> PartitionResult:
        inputs = self._input
        request = CloseRequest(
            ref=inputs.ref,
            plan=inputs.plan,
            partition=inputs.partition,
            outcome=outcome,
            error=error,
            message=message,
            base=self._base,
            fence=workflow.uuid4().hex if fence else "",
            rows=self._rows,
        )
        return await close(request)

    @property
    def _done(self) -> int:
        return self._filtered + sum(result.rows for result in self._finished.values())

    def _show(self, detail: str) -> None:
        workflow.set_current_details(f"{self._input.partition}: {detail}")

    @workflow.signal
    def wanted_by(self, run: str) -> None:
        """Record that another run, given by its workflow id, waits for this partition."""
        self._wanted_by.add(run)

    @workflow.signal
    def pause(self, reason: str) -> None:
        self._paused = reason or "paused"

    @workflow.signal
    def resume(self) -> None:
        self._paused = ""

    @workflow.signal
    def funded(self) -> None:
        self._short.clear()

    @workflow.signal
    def answered(self) -> None:
        """Record that a person has answered a question."""
        self._new_answers = True

    @workflow.query
    def progress(self) -> Progress:
        return Progress(
            state="paused" if self._paused else "running",
            detail=self._paused,
            totals=Totals(),
            rows_total=self._rows,
            rows_done=self._done,
            rejected=sum(result.rejected for result in self._finished.values()),
            running=(),
            waiting=self._waiting,
            waits_for_code=self._code,
            spent=self._spent,
        )
