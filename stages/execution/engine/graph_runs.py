"""Runs of a stage's graph by LangGraph's engine, row by row: with its nodes watched or recorded, with people's answers.

A row whose stage has a shorter way to the last state (`GraphStage.direct`) needs none of it, unless somebody watches.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from langgraph.errors import GraphBubbleUp

from schemas.errors import RowError
from stages.contract import AnyGraph, GraphStage
from stages.execution.attempt import BatchContext, RowLeft
from stages.execution.engine.interrupts import Rounds, interrupts_of, resume_graph, row_pending
from stages.execution.engine.node_steps import StepDone, recorded
from stages.execution.engine.observed_nodes import observed
from stages.execution.engine.row_graph import config_of, graph_of_rows, last_state
from stages.execution.guards.isolation import GraphRow
from stages.models.row.scope import RowScope


class GraphRuns:
    """The runs of a stage's graph in one batch. `callbacks`: LangChain's, of those who listen."""

    def __init__(self, stage: GraphStage, context: BatchContext, callbacks: Any) -> None:
        graph = graph_of_rows(stage)
        self._stage = stage
        self._context = context
        self._graph = graph if context.observer is None else observed(graph)
        self._config = config_of(stage, callbacks)

    async def last_state(self, row: GraphRow, prepared: dict[str, Any], scope: RowScope) -> Any:
        """Run the graph once and return its last state. Raises RowPending for a question, RowLeft before a further
        step, RowError for a graph that was left in another way."""
        answers = self._context.journal.known.answers.get(row.key)
        invoke = partial(self._invoke, row, scope)
        try:
            if answers is None:
                state = await invoke(self._graph, prepared, {})
            else:
                scope.rounds = rounds = Rounds()
                state = await resume_graph(self._graph, prepared, answers, rounds, invoke)
        except StepDone:
            raise RowLeft from None
        except GraphBubbleUp as exc:
            raise RowError(f"the graph was interrupted: {type(exc).__name__}", kind="interrupted") from exc
        if interrupts := interrupts_of(state):
            raise row_pending(interrupts)
        return state

    async def _invoke(
        self, row: GraphRow, scope: RowScope, graph: AnyGraph, graph_input: Any, config: Mapping[str, Any]
    ) -> Any:
        context = self._context
        if context.steps is not None:
            graph = recorded(graph, context.steps)
        watch = partial(context.on_step, row.key[1]) if context.on_step is not None else None
        if scope.heard:
            config = {"metadata": {"tandem_run": context.run, "tandem_row": row.id}, **config}
        return await last_state(graph, graph_input, {**self._config, **config}, self._stage.context, watch)
