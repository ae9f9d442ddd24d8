"""A stage's graph as rows run it."""

from typing import Any

from langgraph.pregel import Pregel

from stages.contract import GraphStage
from stages.execution.blocking import with_threads
from stages.execution.row_guard import run_in_own_loop

_RECURSION_LIMIT = 100


def graph_of_rows(stage: GraphStage) -> Pregel[Any, Any, Any, Any]:
    """The stage's graph; one of the user's with its nodes in threads, where they block."""
    if ":" not in stage.spec.uses:
        return stage.graph
    return with_threads(stage.graph, stage.name, always=stage.spec.blocking, new_loop=run_in_own_loop)


def config_of(stage: GraphStage) -> Any:
    """How graphs are run; a graph's own limit of steps holds."""
    own = (stage.graph.config or {}).get("recursion_limit")
    return {"recursion_limit": own or _RECURSION_LIMIT, "callbacks": []}
