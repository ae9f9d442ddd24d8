"""Run one graph stage over one batch of rows.

    fingerprint rows → use known answers → run the graph once for each distinct remaining row → one outcome a row

Every row ends as exactly one of ok, rejected, pending (or is not finished, if the batch has to stop: a drain, a long
wait, a fatal error). A pending row waits for a person; it is run again once an answer is in the journal. Answers are
joined to rows by fingerprint, never by position, so one bad row cannot harm another.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import orjson
import polars as pl
from langgraph.errors import GraphBubbleUp

from schemas.errors import FatalModelError, RowError, TandemError
from stages import observer
from stages.contract import Answered, GraphStage
from stages.execution.attempt import BatchContext, StageOutcome
from stages.execution.guards.isolation import GraphRow
from stages.execution.guards.row_guard import RowCode, guard_rows
from stages.execution.guards.row_memory import enter_row
from stages.execution.guards.row_timeout import RowTimeouts
from stages.execution.interrupts import (
    AnyGraph,
    Rounds,
    RowPending,
    interrupts_of,
    resume_graph,
    row_pending,
)
from stages.execution.isolated_run import run_isolated
from stages.execution.node_steps import StepDone
from stages.execution.questions import PENDING, describe_questions
from stages.execution.row_graph import config_of, graph_of_rows, last_state
from stages.execution.row_prints import row_prints
from stages.execution.unsettled import is_answered, is_settled, is_shareable
from stages.journal.records import RowKey, RowRecord, now
from stages.models.failures.errors import Waiting, describe
from stages.models.failures.refused_rows import is_refusal
from stages.models.row_scope import RowScope, RowStopped, current


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


class _Run:
    """Runs rows with bounded concurrency; takes no new one once something stops it."""

    def __init__(self, stage: GraphStage, context: BatchContext) -> None:
        self.stage = stage
        self.context = context
        self.stopped: TandemError | None = None
        self._unexpected: Exception | None = None
        self._config = config_of(stage)
        self._held: list[tuple[GraphRow, RowRecord]] = []  # refused, not yet known if the stage is
        self._graph_of_rows = graph_of_rows(stage)
        self._claimed: Sequence[RowKey] = ()
        self._claimed_elsewhere: set[RowKey] = set()
        self._timeouts = RowTimeouts(stage.spec.row_timeout.total_seconds(), context.on_stuck)

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
                leave = await enter_row(self.stage.limiter, self.context.memory, row.values.values())
                if self._is_over():
                    leave()
                    break
                task = asyncio.create_task(self._run_row(row))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(partial(_left, leave))
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
        if not self._is_over():
            for held, record in self._held:
                await self._store(held, record)

    async def _store(self, row: GraphRow, record: RowRecord) -> None:
        await self.context.journal.append(record)
        self.context.on_row(row.equal)
        if (seen := observer.current) is not None:
            seen.rows_done(self.stage.name, row.equal)

    async def _run_row(self, row: GraphRow) -> None:
        refused_rows = self.stage.refused_rows
        try:
            record = await self._record_of(row)
            if refused_rows.undecided and is_refusal(record.error):
                self._held.append((row, record))
                refused_rows.record_refusal(record.row, record.error or {})
                return
            if refused_rows.undecided and is_answered(record):
                refused_rows.record_answer()
            await self._store(row, record)
        except StepDone:
            pass  # `steps.more` is set
        except TandemError as exc:
            self._stop(exc)
        except Exception as exc:  # noqa: BLE001  a bug, or a foreign error of the store: raised once all rows ended
            self._unexpected = self._unexpected or exc

    def _stop(self, exc: TandemError) -> None:
        """Remember the worst error: one that a retry cannot help, else the longest wait."""
        if self.stopped is None or _severity(exc) > _severity(self.stopped):
            self.stopped = exc

    async def _record_of(self, row: GraphRow) -> RowRecord:
        """Return the row's record, from an equal row of another batch or from the graph."""
        shared = self.context.shared
        record = shared.recalled(row.key)
        if not is_settled(record, self.context.journal.known):
            record = None
        while record is None:
            leader = shared.rows.get(row.key)
            if leader is None and row.key in self._claimed_elsewhere and self.context.claims is not None:
                self._claimed_elsewhere.discard(row.key)
                record = _own_or(await self.context.claims.result(row.key))
                continue
            if leader is None:
                return await self._run_as_leader(row)
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
            record = await self._run_graph(row)
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

    async def _run_graph(self, row: GraphRow) -> RowRecord:
        """Run the graph once. Raises errors that are not the row's fault: a wait, a fatal model error, a failing store.
        A question parks the row; every other error rejects it, with its reason."""
        context = self.context
        scope = RowScope(
            id=row.id,
            run=context.run,
            batch=context.batch,
            journal=context.journal,
            tally=context.tally,
            in_flight=context.shared.calls,
            loop=asyncio.get_running_loop(),
            halted=lambda: self.stopped,
            budget=context.budget,
            stage=self.stage.name,
            own="" if self.stage.spec.share else row.key[1],
        )
        token = current.set(scope)
        number = context.watch.began(self.stage.name, row.key, row.id) if context.watch is not None else None
        answer: str | None = None
        error: dict[str, Any] | None = None
        status: Literal["ok", "rejected", "pending"] = "rejected"
        try:
            with self._timeouts.row(scope):
                answer = _json(await RowCode(self._output_of(row, scope), scope, scope.loop))
            status = "ok"
        except StepDone:
            raise
        except RowPending as parked:
            error, status = describe_questions(parked.questions), "pending"
        except RowError as exc:
            error = describe(exc)
        except TandemError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error = describe(RowError("the graph cancelled itself", kind="interrupted"))
        except BaseException as exc:  # a user's graph may raise anything
            if isinstance(exc, GeneratorExit) and asyncio.current_task() is None:
                raise  # the coroutine is being discarded
            error = describe(exc)
        finally:
            if context.watch is not None:
                context.watch.ended(number)
            current.reset(token)
            scope.close()
        if scope.stop is not None:
            raise scope.stop  # even if the graph caught it: it went on without the answer
        if error is not None:
            error["calls"] = len(scope.calls)
        costs = [call.cost_usd if (call := context.journal.known.calls.get(key)) else None for key in scope.calls]
        cost = sum(cost for cost in costs if cost is not None) if None not in costs else None
        calls = tuple(scope.calls)
        mended = tuple(sorted(scope.mended)) if status == "ok" else ()
        made = (context.journal.known.calls.get(key) for key in calls)
        by = {call.model: call.by["model"] for call in made if call is not None and call.by and "model" in call.by}
        return RowRecord(
            *row.key, row.id, status, answer, error, calls, context.run, now(), cost_usd=cost, mended=mended, by=by
        )

    async def _invoke(self, row: str, graph: AnyGraph, graph_input: Any, config: Mapping[str, Any]) -> Any:
        if self.context.steps is not None:
            graph = self.context.steps.graph(graph)
        on_step = self.context.on_step
        watch = partial(on_step, row) if on_step is not None else None
        return await last_state(graph, graph_input, {**self._config, **config}, self.stage.context, watch)

    async def _output_of(self, row: GraphRow, scope: RowScope) -> dict[str, Any]:
        prepared = self.stage.prepare(row.values)
        if isinstance(prepared, Answered):
            return prepared.answer
        answers = self.context.journal.known.answers.get(row.key)
        try:
            if answers is None:
                state = await self._invoke(row.key[1], self._graph_of_rows, prepared, {})
            else:
                scope.rounds = rounds = Rounds()
                invoke = partial(self._invoke, row.key[1])
                state = await resume_graph(self._graph_of_rows, prepared, answers, rounds, invoke)
        except StepDone:
            raise
        except GraphBubbleUp as exc:
            raise RowError(f"the graph was interrupted: {type(exc).__name__}", kind="interrupted") from exc
        if interrupts := interrupts_of(state):
            raise row_pending(interrupts)
        return self.stage.output_of(state)


def _own_or(record: RowRecord | None) -> RowRecord | None:
    """Return an outcome that an equal row can use, else None: then the row is run by itself."""
    return record if record is None or record.status == PENDING or is_shareable(record) else None


def _severity(exc: TandemError) -> tuple[bool, float]:
    return not exc.retryable, exc.seconds if isinstance(exc, Waiting) else 0.0


def _json(answer: dict[str, Any]) -> str:
    return orjson.dumps(answer).decode()


def _left(leave: Callable[[], None], task: "asyncio.Task[None]") -> None:
    """Give back the place of a row that has ended."""
    leave()
