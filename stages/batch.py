"""The second heart: one graph stage over one batch of rows.

    fingerprint rows → take known answers → run the graph once for each different row that is left → one outcome a row

Every row ends as exactly one of ok, rejected (or is not finished, where the batch has to stop: a drain, a long wait, a
fatal error). Answers are joined to rows by fingerprint, never by position, so one bad row cannot harm another.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson
import polars as pl
from langgraph.errors import GraphBubbleUp

from schemas.errors import FatalModelError, RowError, TandemError
from stages.calls import Waiting
from stages.contract import Answered, GraphStage
from stages.failures import describe
from stages.fingerprints import fingerprints
from stages.journal import CallKey, CallRecord, Journal, RowKey, RowRecord, now
from stages.scope import RowScope, Tally, current

_RECENT_ROWS = 50_000


@dataclass
class Shared:
    """What batches of one partition share within a process: rows and calls in flight, and recent answers."""

    rows: dict[RowKey, "asyncio.Future[RowRecord]"] = field(default_factory=dict)
    calls: dict[CallKey, "asyncio.Future[CallRecord]"] = field(default_factory=dict)
    recent: OrderedDict[RowKey, RowRecord] = field(default_factory=OrderedDict)

    def remember(self, record: RowRecord) -> None:
        self.recent[record.key] = record
        if len(self.recent) > _RECENT_ROWS:
            self.recent.popitem(last=False)


@dataclass
class BatchContext:
    """One attempt of one batch. `drain` is set when the worker is asked to stop; `on_row` is told of finished rows."""

    run: str
    batch: int
    journal: Journal
    shared: Shared
    drain: asyncio.Event
    on_row: Callable[[int], None] = lambda rows: None
    tally: Tally = field(default_factory=Tally)


@dataclass
class StageOutcome:
    """Outcomes by position in the batch's frame; `stopped` is what kept the rest from being finished."""

    records: list[RowRecord | None]
    stopped: TandemError | None = None
    drained: bool = False

    @property
    def finished(self) -> bool:
        return all(record is not None for record in self.records)


async def run_graph_stage(stage: GraphStage, rows: pl.DataFrame, ids: list[str], context: BatchContext) -> StageOutcome:
    """An outcome for each row of the frame. `ids` are the identities of the source rows, in the frame's order."""
    prints = await asyncio.to_thread(fingerprints, rows, stage.reads)
    first: dict[str, int] = {}
    for at, row in enumerate(prints):
        first.setdefault(row, at)
    run = _Run(stage, context)
    todo = [(row, at) for row, at in first.items() if (stage.fingerprint, row) not in context.journal.known.rows]
    if len(todo) < len(first):
        context.on_row(len(prints) - len(todo))
    values = rows.select(stage.reads)
    await run.all((row, ids[at], values.row(at, named=True) if stage.reads else {}) for row, at in todo)
    known = context.journal.known.rows
    return StageOutcome([known.get((stage.fingerprint, row)) for row in prints], run.stopped, context.drain.is_set())


class _Run:
    """Runs rows with bounded concurrency; takes no new one once something stops it."""

    def __init__(self, stage: GraphStage, context: BatchContext) -> None:
        self.stage = stage
        self.context = context
        self.stopped: TandemError | None = None
        self._config: Any = {"recursion_limit": 100, "callbacks": []}

    async def all(self, rows: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            for row, row_id, values in rows:
                if self.stopped is not None or self.context.drain.is_set():
                    break
                place = AsyncExitStack()
                await place.enter_async_context(self.stage.limiter.row())
                task = asyncio.ensure_future(self._one(row, row_id, values, place))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, row: str, row_id: str, values: dict[str, Any], place: AsyncExitStack) -> None:
        async with place:
            if self.stopped is None:
                await self._answer(row, row_id, values)
                self.context.on_row(1)

    async def _answer(self, row: str, row_id: str, values: dict[str, Any]) -> None:
        """The row's record, from an equal row of another batch or from the graph, into the journal."""
        key = (self.stage.fingerprint, row)
        shared = self.context.shared
        record = shared.recent.get(key)
        if record is None and key in shared.rows:
            try:
                record = await asyncio.shield(shared.rows[key])
            except TandemError:
                record = None  # the other batch had to stop; this one asks for itself
        if record is None:
            record = await self._led(key, row_id, values)
            if record is None:
                return
        if record.id != row_id:
            record = RowRecord(
                *key, row_id, record.status, record.answer, record.error, record.calls, self.context.run, now()
            )
        await self.context.journal.append(record)

    async def _led(self, key: RowKey, row_id: str, values: dict[str, Any]) -> RowRecord | None:
        """Run the graph as the one that others with the same row wait for."""
        shared = self.context.shared
        future: asyncio.Future[RowRecord] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else done.exception() and None)
        shared.rows[key] = future
        try:
            record = await self._graph(key, row_id, values)
            shared.remember(record)
            future.set_result(record)
            return record
        except TandemError as exc:
            future.set_exception(exc)
            self.stopped = self.stopped or exc
            return None
        except BaseException:
            future.set_exception(Waiting("interrupted", 0))
            raise
        finally:
            shared.rows.pop(key, None)

    async def _graph(self, key: RowKey, row_id: str, values: dict[str, Any]) -> RowRecord:
        """One run of the graph. Raises Waiting and FatalModelError, which are not the row's fault; everything else that
        goes wrong rejects the row, with its reason."""
        context = self.context
        scope = RowScope(
            id=row_id,
            run=context.run,
            batch=context.batch,
            journal=context.journal,
            tally=context.tally,
            in_flight=context.shared.calls,
            loop=asyncio.get_running_loop(),
        )
        token = current.set(scope)
        answer: str | None = None
        error: dict[str, Any] | None = None
        try:
            prepared = self.stage.prepare(values)
            if isinstance(prepared, Answered):
                answer = _json(prepared.answer)
            else:
                state = await self.stage.graph.ainvoke(prepared, self._config, context=self.stage.context)
                if isinstance(scope.stop, Waiting | FatalModelError):
                    raise scope.stop  # the graph swallowed it and went on without the answer
                answer = _json(self.stage.harvest(state))
        except (Waiting, FatalModelError):
            raise
        except GraphBubbleUp as exc:
            error = describe(RowError(f"the graph was interrupted: {type(exc).__name__}", kind="interrupted"))
        except Exception as exc:
            if isinstance(scope.stop, Waiting | FatalModelError):
                raise scope.stop from exc
            error = describe(exc)
        finally:
            current.reset(token)
        if error is not None:
            error["calls"] = len(scope.calls)
        status = "ok" if error is None else "rejected"
        return RowRecord(*key, row_id, status, answer, error, tuple(scope.calls), context.run, now())  # type: ignore[arg-type]


def _json(answer: dict[str, Any]) -> str:
    return orjson.dumps(answer).decode()
