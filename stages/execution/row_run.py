"""Run the graph of one row: its record, whatever a user's graph does."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import orjson

from schemas.errors import RowError, TandemError
from stages.contract import Answered, GraphStage
from stages.execution.attempt import BatchContext, RowLeft
from stages.execution.guards.isolation import GraphRow
from stages.execution.guards.row_guard import RowCode
from stages.execution.guards.row_rest import result_or_parked
from stages.execution.guards.row_timeout import RowTimeouts
from stages.execution.questions import RowPending, describe_questions
from stages.journal.records import RowRecord, now
from stages.models.callbacks import are_heard, callbacks_here
from stages.models.failures.errors import describe
from stages.models.row.scope import RowScope, current

if TYPE_CHECKING:
    from stages.execution.engine.graph_runs import GraphRuns


class RowRunner:
    """Runs rows of one batch through the graph of a stage. `halted` returns the error that stops them, if any."""

    def __init__(
        self,
        stage: GraphStage,
        context: BatchContext,
        timeouts: RowTimeouts,
        halted: Callable[[], TandemError | None],
    ) -> None:
        self.stage = stage
        self.context = context
        self._timeouts = timeouts
        self._halted = halted
        callbacks = callbacks_here()
        self._heard = are_heard(callbacks)
        self._callbacks = callbacks
        watchers = context.observer, context.steps, context.on_step
        are_steps_watched = any(watcher is not None for watcher in watchers) or self._heard
        self._direct = None if are_steps_watched else stage.direct

    @cached_property
    def _graph_runs(self) -> "GraphRuns":
        from stages.execution.engine.graph_runs import GraphRuns  # half a second, which direct stages do without

        return GraphRuns(self.stage, self.context, self._callbacks)

    async def run(self, row: GraphRow) -> RowRecord:
        """Run the graph once. Raises RowParked, RowLeft, and errors that are not the row's fault: a wait, a fatal model
        error, a failing store. A question parks the row; every other error rejects it, with its reason."""
        context = self.context
        scope = RowScope(
            id=row.id,
            run=context.run,
            batch=context.batch,
            journal=context.journal,
            tally=context.tally,
            in_flight=context.shared.calls,
            loop=asyncio.get_running_loop(),
            halted=self._halted,
            budget=context.budget,
            stage=self.stage.name,
            no_calls=context.no_calls,
            heard=self._heard,
            own="" if self.stage.spec.share else row.key[1],
            parking=None if context.parking is None else context.parking.of_row(self.stage.name, row.key[1]),
        )
        if context.observer is not None:
            scope.observer = context.observer.row_began(self.stage.name, self.stage.spec.uses, row.id, row.values)
        token = current.set(scope)
        number = context.watch.began(self.stage.name, row.key, row.id) if context.watch is not None else None
        answer: str | None = None
        error: dict[str, Any] | None = None
        status: Literal["ok", "rejected", "pending"] = "rejected"
        try:
            with self._timeouts.row(scope):
                answer = orjson.dumps(await self._outcome_of(row, scope)).decode()
            status = "ok"
        except RowLeft:
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
        if scope.observer is not None:
            scope.observer.ended(status, error)
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

    async def _outcome_of(self, row: GraphRow, scope: RowScope) -> dict[str, Any]:
        """Return the row's output. Raises RowParked if its calls wait for a provider batch job."""
        work = self._output_of(row, scope)
        if scope.parking is None:
            return cast(dict[str, Any], await RowCode(work, scope, scope.loop))
        return cast(dict[str, Any], await result_or_parked(work, scope, scope.parking))

    async def _output_of(self, row: GraphRow, scope: RowScope) -> dict[str, Any]:
        prepared = self.stage.prepare(row.values)
        if isinstance(prepared, Answered):
            return prepared.answer
        if self._direct is not None and row.key not in self.context.journal.known.answers:
            return self.stage.output_of(await self._direct(prepared))
        return self.stage.output_of(await self._graph_runs.last_state(row, prepared, scope))
