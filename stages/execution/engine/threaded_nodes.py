"""Graphs whose async nodes block the loop that all rows share: their nodes are run in threads, each with a loop of its
own. Model calls come back to the shared loop by themselves (`stages.models.calls`).

A stage declares it (`blocking: true`), or it is detected (`stages.execution.guards.blocking`).
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.constants import START
from langgraph.pregel import Pregel

from stages.contract import AnyGraph
from stages.execution.guards.blocking import NodeBlocks, in_node, loop_use


def with_threads(
    graph: AnyGraph, stage: str, *, always: bool, new_loop: Callable[[Coroutine[Any, Any, Any]], Any]
) -> AnyGraph:
    """Return the same graph, its nodes run in threads if the stage blocks, or `always`. `new_loop` runs a coroutine to
    its end in the calling thread."""

    def blocks() -> bool:
        return always or stage in loop_use.blocking

    def threaded(bound: Runnable[Any, Any]) -> Runnable[Any, Any]:
        if isinstance(bound, Pregel):
            return with_threads(bound, stage, always=always, new_loop=new_loop)
        return bound if getattr(bound, "afunc", None) is None else _InThread(bound, blocks, new_loop)

    nodes = {
        name: node if name == START else node.copy({"bound": threaded(node.bound)})
        for name, node in graph.nodes.items()
    }
    return graph.copy({"nodes": nodes})


class _InThread(Runnable[Any, Any]):
    def __init__(
        self, node: Runnable[Any, Any], blocks: Callable[[], bool], new_loop: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self.name = node.name
        self.node = node
        self._blocks = blocks
        self._new_loop = new_loop

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self.node.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        if not self._blocks():
            token = in_node.set(True)
            try:
                return await self.node.ainvoke(input, config, **kwargs)
            except NodeBlocks:
                pass  # again, in a thread
            finally:
                in_node.reset(token)
        context = contextvars.copy_context()

        def run() -> Any:
            return context.run(self._new_loop, self.node.ainvoke(input, config, **kwargs))

        return await asyncio.get_running_loop().run_in_executor(None, run)
