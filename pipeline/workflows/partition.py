"""PartitionWorkflow: one partition, from its rows to a committed generation.

    open → a window of enrich_batch → publish            (lost the commit to other content: once more, from the journal)
      │        │                       └ a wait is a result: sleep, schedule the batch again
      │        └ rows wait for a person (pending: wait): wait as long as it takes, then these batches once more
      └ cancelled or failed: close, with a tombstone where it was cancelled

It returns how the partition ended, also when it failed: one failed partition never fails its siblings.
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
    from pipeline.workflows.activity_calls import (
        ANSWERS,
        ENRICH,
        OPEN,
        call,
        cause_of,
        stop_if_cancelled,
    )
    from pipeline.workflows.budget_pause import PartitionBudget
    from pipeline.workflows.partition_steps import all_ended, close, publish, report_questions, run_row
    from schemas.errors import Cancelled, CommitConflict, by_code
    from schemas.messages.base import Outcome
    from schemas.messages.batch import BatchRequest, BatchResult, RowsOfBatch, Spent
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
# some 2,000 events of history a month. `tandem review answer` says that there is news, so it is the second-best way.
_ROWS_AT_ONCE = 50
_ROW_HELD = timedelta(seconds=5)
_FIRST_LOOK = timedelta(seconds=5)
_LAST_LOOK = timedelta(hours=6)


@workflow.defn
class PartitionWorkflow:
    def __init__(self) -> None:
        self._rows = 0
        self._finished: dict[int, BatchResult] = {}
        self._news = False
        self._paused = ""
        self._window = 1
        self._waiting = ""
        self._code = ""
        self._spent = Spent()
        self._base = 0
        self._wanted_by: set[str] = set()
        self._short = PartitionBudget()

    @workflow.run
    async def run(self, given: PartitionInput) -> PartitionResult:
        self._given = given
        self._window = given.windows.batches
        self._rows = given.rows
        reporting = asyncio.create_task(self._short.report(given.partition))
        try:
            result = await self._ended()
        finally:
            reporting.cancel()
            await self._free()
        return result

    async def _ended(self) -> PartitionResult:
        try:
            return await self._published()
        except (ActivityError, ChildWorkflowError, asyncio.CancelledError) as exc:
            # A cancel arrives as the former where an activity is awaited, as asyncio's own anywhere else.
            if is_cancelled_exception(exc):
                return await self._close("cancelled", Cancelled.__name__, "the run was cancelled", fence=True)
            error, message = cause_of(exc)
            return await self._close(
                "cancelled" if by_code(error) is Cancelled else "failed", error, message, fence=False
            )

    async def _free(self) -> None:
        """Tell the runs that wait for this partition. One that has ended meanwhile needs no telling."""
        while self._wanted_by:
            run = min(self._wanted_by)
            self._wanted_by.discard(run)
            with contextlib.suppress(FailureError):
                await workflow.get_external_workflow_handle(run).signal("freed", self._given.partition)

    async def _published(self) -> PartitionResult:
        lost_to: int | None = None
        for attempt in range(_REOPENS + 1):
            self._finished = {}
            opened = await self._open(lost_to)
            if opened.up_to_date:  # by now; written down, as an earlier attempt may have left another outcome
                closed = await self._close("unchanged", "", "", fence=False)
                return closed.model_copy(update={"generation": opened.base or None})
            self._base, self._rows = opened.base, opened.rows
            await self._enriched(opened, range(opened.batches), answered=False)
            while parked := self._parked():
                await self._answers(opened)
                await self._enriched(opened, parked, answered=True)
            receipts = self._receipts(opened)
            self._say("publishing")
            try:
                return await self._publish(opened, receipts)
            except ActivityError as exc:
                if by_code(cause_of(exc)[0]) is not CommitConflict or attempt == _REOPENS:
                    raise
                lost_to = opened.base
        raise AssertionError("unreachable")

    async def _open(self, lost_to: int | None) -> Opened:
        given = self._given
        request = OpenRequest(
            ref=given.ref, plan=given.plan, partition=given.partition, limit=given.rows, lost_to=lost_to
        )
        return await call(OPEN, request, waiting=self._wait_for_code)

    def _wait_for_code(self, reason: str) -> None:
        self._code = reason
        self._say(f"waiting: {reason}" if reason else "opening")

    def _parked(self) -> list[int]:
        """The batches with rows that hold the publication up until a person has answered; a rehearsal has none."""
        if self._given.rehearsal:
            return []
        return sorted(number for number, result in self._finished.items() if result.parked)

    def _receipts(self, opened: Opened) -> list[str]:
        return [self._finished[number].receipt for number in range(opened.batches)]

    async def _answers(self, opened: Opened) -> None:
        """Wait until people have answered all that holds the publication up."""
        given = self._given
        request = AnswersRequest(
            ref=given.ref, plan=given.plan, partition=given.partition, opened=opened.opened,
            receipts=tuple(self._receipts(opened)), tell=True,
        )  # fmt: skip
        since = workflow.now()
        try:
            while (found := await call(ANSWERS, request)).missing:
                if request.tell:
                    await report_questions(given.partition, found.missing)
                request = request.model_copy(update={"tell": False})
                s = "" if found.missing == 1 else "s"
                self._waiting = f"{found.missing:,} answer{s} of a person (tandem review ls)"
                self._say(f"waiting: {self._waiting}")
                self._news = False
                look = min(max((workflow.now() - since) / 10, _FIRST_LOOK), _LAST_LOOK)
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(lambda: self._news, timeout=look)
        finally:
            self._waiting = ""
        if not request.tell:
            await report_questions(given.partition, 0)

    async def _enriched(self, opened: Opened, numbers: Iterable[int], *, answered: bool) -> None:
        """Do these batches, a window of them at work at once. However it ends, none is at work afterwards: what they
        flush on their way out is in the journal before anything else is done."""
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
                task = asyncio.create_task(self._batch(opened, number, answered))
                running.add(task)
                task.add_done_callback(ended)
            await workflow.wait_condition(lambda: bool(failed) or not running)
            if failed:
                raise failed[0]
        finally:
            for task in tuple(running):
                task.cancel()
            await all_ended(running)

    async def _batch(self, opened: Opened, number: int, answered: bool) -> None:
        given = self._given
        request = BatchRequest(
            ref=given.ref, plan=given.plan, partition=given.partition, opened=opened.opened, batch=number, rows=0,
            answered=answered,
        )  # fmt: skip
        floor = _HANDED_BACK
        while True:
            self._short.at_work += 1
            try:
                result = await call(ENRICH, request, whole=True, waiting=self._wait_for_code)
                self._spent += result.spent
                if result.state == "short":
                    self._short.note(result.needed)
            finally:
                self._short.at_work -= 1
            if result.state == "done":
                self._finished[number] = result
                self._waiting = ""
                self._say(f"{self._done:,} of {self._rows:,} rows")
                return
            stop_if_cancelled()
            if result.by_row is not None:
                await self._by_row(request, result.by_row)
                continue
            if result.state == "short":
                self._say("short of money")
                await workflow.wait_condition(lambda: not self._paused and not self._short)
                continue
            pause = floor
            if result.state == "waiting" and result.until is not None:
                self._waiting = result.reason
                self._say(f"waiting: {result.reason}")
                pause = max(result.until - workflow.now(), floor)
            # Each round is some events of history, so a batch that waits again and again asks ever less often.
            floor = min(2 * floor, _LONGEST_FLOOR)
            await workflow.sleep(pause)
            await workflow.wait_condition(lambda: not self._paused and not self._short)

    async def _by_row(self, batch: BatchRequest, rows: RowsOfBatch) -> None:
        """Run rows by themselves, a window of them at once. As with batches, none is at work afterwards."""
        room = asyncio.Semaphore(_ROWS_AT_ONCE)

        async def one(number: int) -> None:
            async with room:
                await self._row(batch, rows, number)

        tasks = [asyncio.create_task(one(number)) for number in range(len(rows.ids))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await all_ended(set(tasks))

    async def _row(self, batch: BatchRequest, rows: RowsOfBatch, number: int) -> None:
        request = rows.row_of(batch, number)
        while True:
            await workflow.wait_condition(lambda: not self._paused and not self._short)
            self._short.at_work += 1
            try:
                result = await run_row(request)
                self._spent += result.spent
                if result.short:
                    self._short.note(result.needed)
            except WorkflowAlreadyStartedError:  # of a partition workflow that was terminated: it is being cancelled
                await workflow.sleep(_ROW_HELD)
                continue
            finally:
                self._short.at_work -= 1
            if not result.short:
                return
            stop_if_cancelled()

    async def _publish(self, opened: Opened, receipts: list[str]) -> PartitionResult:
        given = self._given
        request = PublishRequest(
            ref=given.ref,
            plan=given.plan,
            partition=given.partition,
            opened=opened.opened,
            receipts=tuple(receipts),
            rehearsal=given.rehearsal,
        )
        return await publish(request, self._wait_for_code)

    async def _close(self, outcome: Outcome, error: str, message: str, *, fence: bool) -> PartitionResult:
        given = self._given
        request = CloseRequest(
            ref=given.ref,
            plan=given.plan,
            partition=given.partition,
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
        return sum(result.rows for result in self._finished.values())

    def _say(self, detail: str) -> None:
        workflow.set_current_details(f"{self._given.partition}: {detail}")

    @workflow.signal
    def wanted_by(self, run: str) -> None:
        """Another run (its workflow id) waits until we are done."""
        self._wanted_by.add(run)

    @workflow.signal
    def pause(self, reason: str) -> None:
        self._paused = reason or "paused"

    @workflow.signal
    def resume(self) -> None:
        self._paused = ""

    @workflow.signal
    def funded(self) -> None:
        self._short.over()

    @workflow.signal
    def answered(self) -> None:
        """Somebody has answered a question."""
        self._news = True

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
