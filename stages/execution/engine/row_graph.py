"""The graph of a stage as rows run it, and one run of it to its last state."""

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.callbacks import Callbacks

from stages.contract import AnyGraph, GraphStage
from stages.execution.engine.interrupts import INTERRUPT
from stages.execution.engine.threaded_nodes import with_threads
from stages.execution.guards.row_guard import run_in_own_loop

_RECURSION_LIMIT = 100


def graph_of_rows(stage: GraphStage) -> AnyGraph:
    """Return the stage's graph; a user's graph with its nodes in threads if they block."""
    if ":" not in stage.spec.uses:
        return stage.graph
    return with_threads(stage.graph, stage.name, always=stage.spec.blocking, new_loop=run_in_own_loop)


def config_of(stage: GraphStage, callbacks: Callbacks = None) -> Any:
    """Return the config that graphs are run with; a graph's own recursion limit is kept. `callbacks` of those who
    listen: the run has the stage's name."""
    limit = (stage.graph.config or {}).get("recursion_limit")
    return {"recursion_limit": limit or _RECURSION_LIMIT, "callbacks": callbacks or [], "run_name": stage.name}


async def last_state(
    graph: AnyGraph,
    graph_input: Any,
    config: Any,
    context: Any,
    on_update: Callable[[str, Any], None] | None,
) -> Any:
    """Run a graph and return its last state. `on_update`, if set, is called with each node's name and update."""
    if on_update is None:
        return await graph.ainvoke(graph_input, config, context=context)
    state: Any = None
    interrupts: list[Any] = []
    async for mode, chunk in graph.astream(graph_input, config, context=context, stream_mode=["updates", "values"]):
        if mode == "values":
            state = chunk
        elif isinstance(chunk, Mapping):
            interrupts += chunk.get(INTERRUPT, ())
            for node, update in chunk.items():
                if node != INTERRUPT:
                    on_update(str(node), update)
    return {**state, INTERRUPT: interrupts} if interrupts and isinstance(state, Mapping) else state
