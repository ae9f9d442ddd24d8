"""Graphs whose async nodes block the loop that all rows share: their nodes are run in threads, each with a loop of its
own. Model calls come back to the shared loop by themselves (`stages.models.calls`).

A stage declares it (`blocking: true`), or it is detected: `running` is the row whose code has the loop now, so that a
thread that watches the loop can find the row.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.constants import START

from stages.contract import AnyGraph
from stages.models.row.scope import RowScope


class NodeBlocks(BaseException):
    """Raised in a node that holds the loop, to restart it in a thread: its model calls are in the journal."""


@dataclass
class LoopUse:
    """The row whose code has the loop, and how many times the code of rows got it. `blocking` are the stages whose
    nodes do not return it."""

    running: RowScope | None = None
    turns: int = 0
    blocking: set[str] = field(default_factory=set)
    interrupted_turn: int | None = None
    process: int = 0  # of the loop; a row may fork, and must not run on in both processes


_in_node: ContextVar[bool] = ContextVar("tandem_in_node", default=False)
loop_use = LoopUse()  # one a process, as the loop that runs rows is


def interrupt_node(*_: object) -> None:
    """A signal handler, in the thread of the loop: take the loop away from the node that has it, if it is still the one
    that was found to block. Raises NodeBlocks in it."""
    blocked_turn, loop_use.interrupted_turn = loop_use.interrupted_turn, None
    if blocked_turn is not None and blocked_turn == loop_use.turns and loop_use.running is not None and _in_node.get():
        raise NodeBlocks


def with_threads(
    graph: AnyGraph, stage: str, *, always: bool, new_loop: Callable[[Coroutine[Any, Any, Any]], Any]
) -> AnyGraph:
    """Return the same graph, its nodes run in threads if the stage blocks, or `always`. `new_loop` runs a coroutine to
    its end in the calling thread."""
    from langgraph.pregel import Pregel

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
            token = _in_node.set(True)
            try:
                return await self.node.ainvoke(input, config, **kwargs)
            except NodeBlocks:
                pass  # again, in a thread
            finally:
                _in_node.reset(token)
        context = contextvars.copy_context()

        def run() -> Any:
            return context.run(self._new_loop, self.node.ainvoke(input, config, **kwargs))

        return await asyncio.get_running_loop().run_in_executor(None, run)
