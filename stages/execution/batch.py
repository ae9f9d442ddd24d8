"""The second heart: one graph stage over one batch of rows.

    fingerprint rows → take known answers → run the graph once for each different row that is left → one outcome a row

Every row ends as exactly one of ok, rejected, pending (or is not finished, where the batch has to stop: a drain, a long
wait, a fatal error). A pending row waits for a person; it is run again once an answer is in the journal. Answers are
joined to rows by fingerprint, never by position, so one bad row cannot harm another.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import orjson
import polars as pl
from langgraph.errors import GraphBubbleUp

from schemas.errors import FatalModelError, RowError, TandemError
from stages.contract import Answered, GraphStage
from stages.execution.attempt import BatchContext, StageOutcome
from stages.execution.interrupts import (
    INTERRUPT,
    PENDING,
    AnyGraph,
    Rounds,
    RowPending,
    ask,
    described,
    interrupts_of,
    resumed,
)
from stages.execution.isolated_run import run_isolated
from stages.execution.isolation import GraphRow
from stages.execution.node_steps import StepDone
from stages.execution.row_flow import RowAnswer
from stages.execution.row_graph import config_of, graph_of_rows
from stages.execution.row_guard import RowCode, guard_rows
from stages.execution.row_timeout import RowTimeouts
from stages.execution.unsettled import is_answered, is_settled
from stages.journal.fingerprints import fingerprints
from stages.journal.records import RowKey, RowRecord, now
from stages.models.failures.errors import Waiting, describe
from stages.models.failures.refused_rows import is_refusal
from stages.models.row_scope import RowScope, RowStopped, current


def answer_of(record: RowRecord) -> RowAnswer:
    """What a record says became of its row."""
    if record.status == "ok":
        return RowAnswer(orjson.loads(record.answer or "{}"))
    return RowAnswer(pending=record.status == PENDING)


async def run_graph_stage(stage: GraphStage, rows: pl.DataFrame, ids: list[str], context: BatchContext) -> StageOutcome:
    """An outcome for each row of the frame. `ids` are the identities of the source rows, in the frame's order."""
    prints = await asyncio.to_thread(fingerprints, rows, stage.reads)
    known = context.journal.known
    first: dict[str, int] = {}
    for at, row in enumerate(prints):
        first.setdefault(row, at)
    todo = [(row, at) for row, at in first.items() if not is_settled(known.rows.get((stage.fingerprint, row)), known)]
    equal = Counter(prints)
    if answered := len(prints) - sum(equal[row] for row, _ in todo):
        context.on_row(answered)
    if len(todo) < len(first) and any(is_answered(known.rows.get((stage.fingerprint, row))) for row in first):
        stage.refused_rows.answered()
    run = _Run(stage, context)
    await run.claim([(stage.fingerprint, row) for row, _ in todo])
    values = rows.select(stage.reads)
    await run.all(
        GraphRow((stage.fingerprint, row), ids[at], values.row(at, named=True) if stage.reads else {}, equal[row])
        for row, at in todo
    )
    found = (known.rows.get((stage.fingerprint, row)) for row in prints)
    records = [record if is_settled(record, known) else None for record in found]
    return StageOutcome(records, _named(stage, run.stopped), context.drain.is_set())


def _named(stage: GraphStage, stopped: TandemError | None) -> TandemError | None:
    """What stops a run says of which stage it is."""
    if isinstance(stopped, FatalModelError):
        return FatalModelError(f"stage {stage.name}: {stopped.message}", hint=stopped.hint)
    return stopped


async def run_rows(stage: GraphStage, rows: Iterable[GraphRow], context: BatchContext) -> TandemError | None:
    """Run rows, their records to the journal; what stopped them, where something did."""
    run = _Run(stage, context)
    await run.all(rows)
    return run.stopped


class _Run:
    """Runs rows with bounded concurrency; takes no new one once something stops it."""

    def __init__(self, stage: GraphStage, context: BatchContext) -> None:
        self.stage = stage
        self.context = context
        self.stopped: TandemError | None = None
        self._broken: Exception | None = None
        self._config = config_of(stage)
        self._held: list[tuple[GraphRow, RowRecord]] = []  # refused, while it is not known whether the stage is
        self._graph_of_rows = graph_of_rows(stage)
        self._claimed: Sequence[RowKey] = ()
        self._elsewhere: set[RowKey] = set()
        self._timeouts = RowTimeouts(stage.spec.row_timeout.total_seconds(), context.on_stuck)

    async def claim(self, keys: Sequence[RowKey]) -> None:
        """Tell other processes which rows are run here, and hear which they run already."""
        if self.context.claims is not None and keys:
            self._claimed = keys
            self._elsewhere = await self.context.claims.claim(keys)

    def _over(self) -> bool:
        return self.stopped is not None or self._broken is not None or self.context.drain.is_set()

    async def all(self, rows: Iterable[GraphRow]) -> None:
        """Run rows until they end or something stops us; what is in flight then is paid for, so it may finish."""
        guard_rows(asyncio.get_running_loop())
        try:
            async with self._timeouts.watched():
                await self._all(rows)
        finally:
            if self.context.claims is not None:
                self.context.claims.release(self._claimed)
        if self._broken is not None:
            raise self._broken

    async def _all(self, rows: Iterable[GraphRow]) -> None:
        limiter = self.stage.limiter
        tasks: set[asyncio.Task[None]] = set()
        isolation = self.context.isolation
        suspects: list[GraphRow] = []

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            limiter.leave_row()

        try:
            for row in rows:
                if self._over():
                    break
                if isolation is not None and isolation.suspects(row.key):
                    suspects.append(row)
                    continue
                await limiter.take_row()
                if self._over():
                    limiter.leave_row()
                    break
                task = asyncio.create_task(self._one(row))
                tasks.add(task)
                task.add_done_callback(ended)
            if tasks:
                await asyncio.wait(tasks)
            if isolation is not None and suspects:
                stopped = await run_isolated(isolation, self.stage, suspects, self.context, self._over)
                if stopped is not None:
                    self._stop(stopped)
        finally:
            left = list(tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if not self._over():
            for held, record in self._held:
                await self._keep(held, record)

    async def _keep(self, row: GraphRow, record: RowRecord) -> None:
        await self.context.journal.append(record)
        self.context.on_row(row.equal)

    async def _one(self, row: GraphRow) -> None:
        refused_rows = self.stage.refused_rows
        try:
            record = await self._answer(row)
            if refused_rows.undecided and is_refusal(record.error):
                self._held.append((row, record))
                refused_rows.refused(record.row, record.error or {})
                return
            if refused_rows.undecided and is_answered(record):
                refused_rows.answered()
            await self._keep(row, record)
        except StepDone:
            pass  # `steps.more` says so
        except TandemError as exc:
            self._stop(exc)
        except Exception as exc:  # noqa: BLE001  a bug, or a foreign error of the store: raised once all have ended
            self._broken = self._broken or exc

    def _stop(self, exc: TandemError) -> None:
        """Remember the worst: what trying again cannot help, else the longest wait."""
        if self.stopped is None or _gravity(exc) > _gravity(self.stopped):
            self.stopped = exc

    async def _answer(self, row: GraphRow) -> RowRecord:
        """The row's record, from an equal row of another batch or from the graph."""
        shared = self.context.shared
        record = shared.recalled(row.key)
        if not is_settled(record, self.context.journal.known):
            record = None
        while record is None:
            leader = shared.rows.get(row.key)
            if leader is None and row.key in self._elsewhere and self.context.claims is not None:
                self._elsewhere.discard(row.key)
                record = await self.context.claims.result(row.key)
                continue
            if leader is None:
                return await self._led(row)
            try:
                record = await asyncio.shield(leader)
            except RowStopped:
                continue  # the other batch was cancelled; this one asks for itself
        if record.status == PENDING:
            await self._keep_calls(row)
        return replace(record, id=row.id, run=self.context.run, at=now(), shared=record.shared or record.id != row.id)

    async def _keep_calls(self, row: GraphRow) -> None:
        """The row waits for the answer to a question of an equal row of another batch. Its graph may be the one that is
        run again then, so what was paid for up to the question belongs to this row too."""
        known = self.context.journal.known.calls
        for call in self.context.shared.parked.get(row.key, ()):
            if call.key not in known:
                await self.context.journal.append(replace(call, id=row.id))

    async def _led(self, row: GraphRow) -> RowRecord:
        """Run the graph as the one that others with the same row wait for. What stops it stops them."""
        shared = self.context.shared
        future: asyncio.Future[RowRecord] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else done.exception() and None)
        shared.rows[row.key] = future
        try:
            record = await self._graph(row)
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

    async def _graph(self, row: GraphRow) -> RowRecord:
        """One run of the graph. Raises what is not the row's fault: a wait, a fatal model error, a store that fails.
        A question parks the row; everything else that goes wrong rejects it, with its reason."""
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
        )
        token = current.set(scope)
        number = context.watch.began(self.stage.name, row.key, row.id) if context.watch is not None else None
        answer: str | None = None
        error: dict[str, Any] | None = None
        status: Literal["ok", "rejected", "pending"] = "rejected"
        try:
            with self._timeouts.row(scope):
                answer = _json(await RowCode(self._state(row, scope), scope, scope.loop))
            status = "ok"
        except StepDone:
            raise
        except RowPending as parked:
            error, status = described(parked.questions), "pending"
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
                raise  # nobody runs this any more
            error = describe(exc)
        finally:
            if context.watch is not None:
                context.watch.ended(number)
            current.reset(token)
            scope.close()
        if scope.stop is not None:
            raise scope.stop  # whatever the graph made of it, it went on without the answer
        if error is not None:
            error["calls"] = len(scope.calls)
        costs = [call.cost_usd if (call := context.journal.known.calls.get(key)) else None for key in scope.calls]
        cost = sum(cost for cost in costs if cost is not None) if None not in costs else None
        calls = tuple(scope.calls)
        mended = tuple(sorted(scope.mended)) if status == "ok" else ()
        return RowRecord(
            *row.key, row.id, status, answer, error, calls, context.run, now(), cost_usd=cost, mended=mended
        )

    async def _invoked(self, row: str, graph: AnyGraph, given: Any, config: Mapping[str, Any]) -> Any:
        """The graph's last state; step by step where somebody watches."""
        context: Any = self.stage.context
        if self.context.steps is not None:
            graph = self.context.steps.graph(graph)
        told = self.context.on_step
        merged: Any = {**self._config, **config} if config else self._config
        if told is None:
            return await graph.ainvoke(given, merged, context=context)
        state: Any = None
        asked: list[Any] = []
        async for mode, seen in graph.astream(given, merged, context=context, stream_mode=["updates", "values"]):
            if mode == "values":
                state = seen
            elif isinstance(seen, Mapping):
                asked += seen.get(INTERRUPT, ())
                for node, update in seen.items():
                    if node != INTERRUPT:
                        told(row, str(node), update)
        return {**state, INTERRUPT: asked} if asked and isinstance(state, Mapping) else state

    async def _state(self, row: GraphRow, scope: RowScope) -> dict[str, Any]:
        prepared = self.stage.prepare(row.values)
        if isinstance(prepared, Answered):
            return prepared.answer
        said = self.context.journal.known.answers.get(row.key)
        try:
            if said is None:
                state = await self._invoked(row.key[1], self._graph_of_rows, prepared, {})
            else:
                scope.rounds = rounds = Rounds()
                invoke = partial(self._invoked, row.key[1])
                state = await resumed(self._graph_of_rows, prepared, said, rounds, invoke)
        except StepDone:
            raise
        except GraphBubbleUp as exc:
            raise RowError(f"the graph was interrupted: {type(exc).__name__}", kind="interrupted") from exc
        if interrupts := interrupts_of(state):
            raise ask(interrupts)
        return self.stage.output_of(state)


def _gravity(exc: TandemError) -> tuple[bool, float]:
    return not exc.retryable, exc.seconds if isinstance(exc, Waiting) else 0.0


def _json(answer: dict[str, Any]) -> str:
    return orjson.dumps(answer).decode()
