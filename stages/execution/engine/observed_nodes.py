"""A row's graph whose nodes are reported to the row's observer. Only where somebody listens."""

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.constants import START
from langgraph.errors import GraphBubbleUp

from stages.contract import AnyGraph
from stages.models.row.scope import current
from stages.observer import RowObserver, ToolCall


def observed(graph: AnyGraph, within: str = "") -> AnyGraph:
    """Return the same graph, its nodes and those of its subgraphs reported. `within`: a prefix of their names."""
    from langgraph.pregel import Pregel

    def reported(name: str, bound: Runnable[Any, Any]) -> Runnable[Any, Any]:
        if isinstance(bound, Pregel):
            return observed(bound, f"{within}{name}.")
        return _ObservedNode(f"{within}{name}", bound)

    nodes = {
        name: node if name == START else node.copy({"bound": reported(name, node.bound)})
        for name, node in graph.nodes.items()
    }
    return graph.copy({"nodes": nodes})


class _ObservedNode(Runnable[Any, Any]):
    def __init__(self, name: str, node: Runnable[Any, Any]) -> None:
        self.name = name
        self._node = node
        prebuilt = sys.modules.get("langgraph.prebuilt")  # not imported: the graph uses nothing of it
        self._calls_tools = prebuilt is not None and isinstance(getattr(node, "node", node), prebuilt.ToolNode)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._node.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        scope = current.get()
        seen = scope.observer if scope is not None else None
        if seen is None:
            return await self._node.ainvoke(input, config, **kwargs)
        node, began = seen.node_began(self.name or ""), time.monotonic()
        error: BaseException | None = None
        try:
            output = await self._node.ainvoke(input, config, **kwargs)
            if self._calls_tools:
                _report_tools(seen, output, time.monotonic() - began)
            return output
        except GraphBubbleUp:  # a question, or the end of a step
            raise
        except BaseException as exc:
            error = exc
            raise
        finally:
            seen.node_ended(node, error)


def _report_tools(seen: RowObserver, output: Any, seconds: float) -> None:
    """Report the tools that LangGraph's own node has called. They run side by side, so each took `seconds` at most."""
    for message in _tool_messages(output):
        seen.tool_ended(
            ToolCall(message.name or "", message.tool_call_id, seconds, message.status == "error", result=message.text)
        )


def _tool_messages(output: Any) -> Iterator[ToolMessage]:
    if isinstance(output, ToolMessage):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tool_messages(value)
    elif isinstance(output, list):
        for value in output:
            yield from _tool_messages(value)
