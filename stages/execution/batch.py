"""Run one graph stage over one batch of rows.

    fingerprint rows → use known answers → run the graph once for each distinct remaining row → one outcome a row

Every row ends as exactly one of ok, rejected, pending (or is not finished, if the batch has to stop: a drain, a long
wait, a fatal error). A pending row waits for a person; it is run again once an answer is in the journal. Answers are
joined to rows by fingerprint, never by position, so one bad row cannot harm another.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import polars as pl

from schemas.errors import FatalModelError, TandemError
from stages import observer
from stages.contract import GraphStage
from stages.execution.attempt import BatchContext, RowLeft, StageOutcome
from stages.execution.guards.isolation import GraphRow
from stages.execution.guards.row_guard import guard_rows
from stages.execution.guards.row_memory import RowSlot
from stages.execution.guards.row_timeout import RowTimeouts
from stages.execution.isolated_run import run_isolated
from stages.execution.questions import PENDING
from stages.execution.row_prints import row_prints
from stages.execution.row_run import RowRunner
from stages.execution.unsettled import is_answered, is_settled, is_shareable
from stages.journal.records import RowKey, RowRecord, now
from stages.models.failures.errors import Waiting
from stages.models.failures.refused_rows import is_refusal
from stages.models.row.parking import RowParked
from stages.models.row.scope import RowStopped


async def run_graph_stage(stage: GraphStage, rows: pl.DataFrame, ids: list[str], context: BatchContext) -> StageOutcome:
    """Return an outcome for each row. `ids` are the identities of the source rows, in the frame's order."""
    prints = await asyncio.to_thread(row_prints, stage, rows, ids)
    known = context.journal.known
    first: dict[str, int] = {}
    for index, row in enumerate(prints):
        first.setdefault(row, index)
    todo = [
        (row, index) for row, index in first.items() if not is_settled(known.rows.get((stage.fingerprint, row)), known)
    ]
    equal = Counter(prints)
    if answered := len(prints) - sum(equal[row] for row, _ in todo):
        context.on_row(answered)
        if (seen := observer.current) is not None:
            seen.rows_done(stage.name, answered)
    if len(todo) < len(first) and any(is_answered(known.rows.get((stage.fingerprint, row))) for row in first):
        stage.refused_rows.record_answer()
    if context.announced is not None:
        context.announced.sort(todo)
    run = _Run(stage, context)
    await run.claim([(stage.fingerprint, row) for row, _ in todo])
    values = rows.select(stage.reads)
    await run.run_all(
        GraphRow((stage.fingerprint, row), ids[index], values.row(index, named=True) if stage.reads else {}, equal[row])
        for row, index in todo
    )
    run_here = {row for row, _ in todo}
    await _carry(stage, {row: ids[index] for row, index in first.items() if row not in run_here}, context)
    stored = (known.rows.get((stage.fingerprint, row)) for row in prints)
    records = [record if is_settled(record, known) else None for record in stored]
    return StageOutcome(records, _with_stage_name(stage, run.stopped), context.drain.is_set())


async def _carry(stage: GraphStage, rows: Mapping[str, str], context: BatchContext) -> None:
    """Copy outcomes into this journal as those of these rows (fingerprint → identity): what only other journals have,
    and what is known of rows that are gone. An outcome is kept for as long as its row is there."""
    present = set(rows.values())
    for row, id in rows.items():
        record = context.journal.known.rows[stage.fingerprint, row]
        if record.key in context.elsewhere or record.id not in present:
            await context.journal.append(replace(record, id=id))


def _with_stage_name(stage: GraphStage, stopped: TandemError | None) -> TandemError | None:
    """Add the stage's name to a fatal model error."""
    if isinstance(stopped, FatalModelError):
        return FatalModelError(f"stage {stage.name}: {stopped.message}", hint=stopped.hint)
    return stopped


async def run_rows(stage: GraphStage, rows: Iterable[GraphRow], context: BatchContext) -> TandemError | None:
    """Run rows and store their records in the journal. Returns the error that stopped them, if any."""
    run = _Run(stage, context)
    await run.run_all(rows)
    return run.stopped


class _Stop:
    """The error that stops a run. Its rows ask for it, and hold no more of the run: a cycle would keep the records of a
    batch, 4 MB of a thousand rows, until the next full collection."""

    def __init__(self) -> None:
        self.error: TandemError | None = None

    def reason(self) -> TandemError | None:
        return self.error


class _Run:
    """Runs rows with bounded concurrency; takes no new one once something stops it."""

    def __init__(self, stage: GraphStage, context: BatchContext) -> None:
        self.stage = stage
        self.context = context
        self._stopped = _Stop()
        self._unexpected: Exception | None = None
        self._held: list[tuple[GraphRow, RowRecord]] = []  # refused, not yet known if the stage is
        self._verdicts = stage.refused_rows.verdicts
        self._claimed: Sequence[RowKey] = ()
        self._claimed_elsewhere: set[RowKey] = set()
        self._timeouts = RowTimeouts(stage.spec.row_timeout.total_seconds(), context.on_stuck)
        self._runner = RowRunner(stage, context, self._timeouts, self._stopped.reason)

    @property
    def stopped(self) -> TandemError | None:
        return self._stopped.error

    async def claim(self, keys: Sequence[RowKey]) -> None:
        """Claim the rows that are run here, and note those that other processes have claimed."""
        if self.context.claims is not None and keys:
            self._claimed = keys
            self._claimed_elsewhere = await self.context.claims.claim(keys)

    def _is_over(self) -> bool:
        return self.stopped is not None or self._unexpected is not None or self.context.drain.is_set()

    async def run_all(self, rows: Iterable[GraphRow]) -> None:
        """Run rows until they end or something stops the run; rows in flight may then finish: their calls are paid."""
        guard_rows(asyncio.get_running_loop())
        try:
            async with self._timeouts.watched():
                await self._run_all(rows)
        finally:
            if self.context.claims is not None:
                self.context.claims.release(self._claimed)
        if self._unexpected is not None:
            raise self._unexpected

    async def _run_all(self, rows: Iterable[GraphRow]) -> None:
        tasks: set[asyncio.Task[None]] = set()
        isolation = self.context.isolation
        suspects: list[GraphRow] = []
        try:
            for row in rows:
                if self._is_over():
                    break
                if isolation is not None and isolation.suspects(row.key):
                    suspects.append(row)
                    continue
                slot = RowSlot(self.stage.limiter, self.context.place, self.context.memory, row.values.values())
                if not self._waits_for_equal(row.key):
                    await slot.enter()
                if self._is_over():
                    slot.leave()
                    break
                task = asyncio.create_task(self._run_row(row, slot))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(partial(_leave, slot))
            if tasks:
                await asyncio.wait(tasks)
            if isolation is not None and suspects:
                stopped = await run_isolated(isolation, self.stage, suspects, self.context, self._is_over)
                if stopped is not None:
                    self._stop(stopped)
        finally:
            left = list(tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if self._held and (refused := self.stage.refused_rows.refused_since(self._verdicts)) is not None:
            self._stop(refused)  # by rows of another batch, when those of this one had been held or were at work
        if not self._is_over():
            for held, record in self._held:
                await self._store(held, record)

    def _waits_for_equal(self, key: RowKey) -> bool:
        return key in self.context.shared.rows or key in self._claimed_elsewhere

    async def _store(self, row: GraphRow, record: RowRecord) -> None:
        await self.context.journal.append(record)
        if record.status == "rejected":
            self.context.tally.note_reject(record.error, row.equal)
        self.context.on_row(row.equal)
        if (seen := observer.current) is not None:
            seen.rows_done(self.stage.name, row.equal)

    async def _run_row(self, row: GraphRow, slot: RowSlot) -> None:
        refused_rows = self.stage.refused_rows
        try:
            record = await self._record_of(row, slot)
            if record is None:
                return
            if refused_rows.undecided and is_refusal(record.error):
                self._held.append((row, record))
                refused_rows.record_refusal(record.row, record.error or {})
                return
            if refused_rows.undecided and is_answered(record):
                refused_rows.record_answer()
            await self._store(row, record)
        except RowLeft:
            pass  # `steps.more` is set
        except RowParked as exc:
            if self.context.parking is not None:
                self.context.parking.calls += [replace(call, row=row.id) for call in exc.calls]
        except TandemError as exc:
            self._stop(exc)
        except Exception as exc:  # noqa: BLE001  a bug, or a foreign error of the store: raised once all rows ended
            self._unexpected = self._unexpected or exc

    def _stop(self, exc: TandemError) -> None:
        """Remember the worst error: one that a retry cannot help, else the longest wait."""
        if self.stopped is None or _severity(exc) > _severity(self.stopped):
            self._stopped.error = exc

    async def _recalled(self, key: RowKey) -> RowRecord | None:
        """Return the outcome of an equal row, of this command or as another has announced it."""
        shared, announced = self.context.shared, self.context.announced
        record = shared.recalled(key)
        if record is None and announced is not None and announced.may_have(key):
            await announced.recall(key, shared.remember)
            record = shared.recalled(key)
        return record if is_settled(record, self.context.journal.known) else None

    async def _record_of(self, row: GraphRow, slot: RowSlot) -> RowRecord | None:
        """Return the row's record, from an equal row of another batch or from the graph; None if the batch ended before
        the row began."""
        shared = self.context.shared
        record = await self._recalled(row.key)
        while record is None:
            leader = shared.rows.get(row.key)
            if leader is None and row.key in self._claimed_elsewhere and self.context.claims is not None:
                self._claimed_elsewhere.discard(row.key)
                slot.leave()
                record = _own_or(await self.context.claims.result(row.key))
                continue
            if leader is None and not slot.held:
                await slot.enter()
                if self._is_over():
                    return None
                record = await self._recalled(row.key)
                continue
            if leader is None:
                return await self._run_as_leader(row)
            slot.leave()
            try:
                record = _own_or(await asyncio.shield(leader))
            except RowStopped:
                continue  # the other batch was cancelled; this one runs the row itself
        if record.status == PENDING:
            await self._keep_calls(row)
        return replace(record, id=row.id, run=self.context.run, at=now(), shared=record.shared or record.id != row.id)

    async def _keep_calls(self, row: GraphRow) -> None:
        """Store the calls of an equal row, in another batch, that waits for the same answer: the graph of this row may
        be the one that is run again, and must not pay twice."""
        known = self.context.journal.known.calls
        for call in self.context.shared.parked.get(row.key, ()):
            if call.key not in known:
                await self.context.journal.append(replace(call, id=row.id))

    async def _run_as_leader(self, row: GraphRow) -> RowRecord:
        """Run the graph while equal rows wait for the result. An error that stops it stops them, too."""
        shared = self.context.shared
        future: asyncio.Future[RowRecord] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else done.exception() and None)
        shared.rows[row.key] = future
        try:
            record = await self._runner.run(row)
            if not (self.stage.refused_rows.undecided and is_refusal(record.error)):
                shared.remember(record)
            shared.parked.pop(row.key, None)
            if record.status == PENDING:
                calls = self.context.journal.known.calls
                shared.parked[row.key] = [calls[key] for key in record.calls if key in calls]
            future.set_result(record)
            return record
        except BaseException as exc:
            future.set_exception(exc if isinstance(exc, TandemError) else RowStopped("the row was interrupted"))
            raise
        finally:
            del shared.rows[row.key]


def _own_or(record: RowRecord | None) -> RowRecord | None:
    """Return an outcome that an equal row can use, else None: then the row is run by itself."""
    return record if record is None or record.status == PENDING or is_shareable(record) else None


def _severity(exc: TandemError) -> tuple[bool, float]:
    return not exc.retryable, exc.seconds if isinstance(exc, Waiting) else 0.0


def _leave(slot: RowSlot, task: "asyncio.Task[None]") -> None:
    """Give back the slot of a row that has ended."""
    slot.leave()
