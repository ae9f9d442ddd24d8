"""`placement: node`: a row's graph, one step at a time. The output of a node is stored, as answers of models are.

The graph is run from its start each time; known nodes return their stored output, the nodes of the first unknown step
are run, and the graph is left before the next step. So after a crash in a node only that node is repeated, and of its
model calls only those that were in flight.

A node is identified by its step and its place in the step. They are the same each time, because everything before is.
"""

import base64
from collections.abc import Iterable
from typing import Any

import orjson
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.constants import START
from langgraph.errors import GraphBubbleUp

from schemas.errors import RowError
from stages.contract import AnyGraph
from stages.execution.attempt import Steps
from stages.journal.records import CallKey, NodeRecord, now
from stages.models.row.scope import calls_of_node, current

_serialiser = JsonPlusSerializer(allowed_msgpack_modules=True)  # of the user's own classes, from the user's own sink


class StepDone(GraphBubbleUp):
    """The graph continues with another step, in another activity."""


def recorded(graph: AnyGraph, steps: Steps) -> AnyGraph:
    """Return the same graph, its nodes recorded."""
    nodes = {
        name: node if name == START else node.copy({"bound": _RecordedNode(name, node.bound, steps)})
        for name, node in graph.nodes.items()
    }
    return graph.copy({"nodes": nodes})


def _begin(steps: Steps, number: int) -> None:
    """Begin a step. Raises StepDone if a node of an earlier step was run already."""
    if steps.running not in (None, number):
        steps.more = True
        raise StepDone
    steps.running = number


class _RecordedNode(Runnable[Any, Any]):
    def __init__(self, name: str, node: Runnable[Any, Any], steps: Steps) -> None:
        self.name = name
        self._node = node
        self._steps = steps

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        raise NotImplementedError("rows are run asynchronously")

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        metadata = (config or {}).get("metadata", {})
        step = int(metadata["langgraph_step"])
        node_key = orjson.dumps([step, metadata["langgraph_path"]], default=str).decode()
        known = self._steps.journal.known.nodes.get(self._steps.key, {}).get(node_key)
        if known is not None:
            scope = current.get()
            assert scope is not None
            scope.replay_calls(known.calls)
            return _output(known)
        _begin(self._steps, step)
        calls: list[CallKey] = []
        token = calls_of_node.set(calls)
        try:
            output = await self._node.ainvoke(input, config, **kwargs)
        finally:
            calls_of_node.reset(token)
        record = self._record(node_key, output, calls)
        await self._steps.journal.append(record)
        return _output(record)  # as it will be each time

    def _record(self, where: str, output: Any, calls: Iterable[CallKey]) -> NodeRecord:
        try:
            kind, data = _serialiser.dumps_typed(output)
        except Exception as exc:
            raise RowError(
                f"node {self.name!r} returned a {type(output).__name__} that cannot be stored: {type(exc).__name__}",
                kind="cannot_be_kept",
            ) from exc
        text = f"{kind}:{base64.b64encode(data).decode()}"
        steps = self._steps
        return NodeRecord(*steps.key, steps.id, where, text, tuple(calls), steps.run, now())


def _output(record: NodeRecord) -> Any:
    kind, _, data = record.output.partition(":")
    return _serialiser.loads_typed((kind, base64.b64decode(data)))
