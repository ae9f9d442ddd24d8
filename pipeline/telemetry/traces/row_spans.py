"""One row in one stage as spans: the stage, its nodes, their calls of models and tools, and repairs.

A sampled row's spans are written as they end, so that those of a process that is killed are not lost with it; the
others are kept in memory until the row's end says whether it was rejected or slow. Attributes are made only for what is
written.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.telemetry.traces import gen_ai
from pipeline.telemetry.traces.place import Place
from pipeline.telemetry.traces.tracer import Span, Tracer
from stages.observer import Call, Prompt, ToolCall

_NS = 1_000_000_000
_MOST = 1_000  # spans that a row which is not sampled may have in memory
Make = Callable[..., Span]  # makes a span below a place, from the values that were held


@dataclass(slots=True)
class _Node:
    """A node at work: its name, how many times the row came to it, and when it began."""

    name: str
    number: int
    began: int
    token: Token["_Node | None"] | None = None


_node: ContextVar[_Node | None] = ContextVar("tandem_traced_node", default=None)


class Batch(Protocol):
    """The batch of a row. `content`: texts may be written."""

    @property
    def tracer(self) -> Tracer: ...
    @property
    def attempt(self) -> int: ...
    @property
    def content(self) -> bool: ...

    def row_place(self, id: str) -> Place:
        """Return the place of the row's span over its stages."""

    def keep(self, id: str, began: int, ended: int, values: Mapping[str, Any] | None) -> None:
        """Note that a row is kept, with the time of one of its stages, in nanoseconds."""


class RowSpans:
    """Hears of one row in one stage. `values`: what the stage reads, None where texts may not be written."""

    __slots__ = (
        "_batch",
        "_began",
        "_held",
        "_id",
        "_operation",
        "_repair",
        "_sampled",
        "_stage",
        "_values",
        "_visits",
    )

    def __init__(
        self, batch: Batch, stage: str, operation: str, id: str, sampled: bool, values: Mapping[str, Any] | None
    ) -> None:
        self._batch, self._stage, self._operation, self._id = batch, stage, operation, id
        self._sampled, self._values = sampled, values
        self._began = time.time_ns()
        self._held: list[tuple[_Node | None, Make, tuple[Any, ...]]] = []
        self._visits: dict[str, int] = {}
        self._repair: tuple[int, str] | None = None

    # As `stages.observer.RowObserver` --------------------------------------------------------------------------------

    def node_began(self, name: str) -> _Node:
        number = self._visits[name] = self._visits.get(name, 0) + 1
        node = _Node(name, number, time.time_ns())
        node.token = _node.set(node)
        return node

    def node_ended(self, node: _Node, error: BaseException | None) -> None:
        if node.token is not None:
            _node.reset(node.token)
        self._write(None, self._node_span, node, time.time_ns(), error)

    def call_answered(self, call: Call, prompt: Prompt | None) -> None:
        ended = round(call.at * _NS)
        self._call(call.model, ended - call.latency_ms * 1_000_000, ended, call, prompt)

    def call_reused(self, call: Call) -> None:
        now = time.time_ns()
        self._call(call.model, now, now, call, None, known=True)

    def call_failed(self, model: str, seconds: float, error: str) -> None:
        now = time.time_ns()
        self._call(model, now - round(seconds * _NS), now, None, None, error=error)

    def tool_ended(self, tool: ToolCall) -> None:
        self._write(_node.get(), self._tool_span, tool, time.time_ns())

    def repair_began(self, problem: str) -> None:
        self._repair = time.time_ns(), problem

    def ended(self, status: str, error: Mapping[str, Any] | None) -> None:
        now = time.time_ns()
        slow = self._batch.tracer.slow_rows(self._stage).is_slow((now - self._began) / _NS)
        if not (self._sampled or slow or status == "rejected"):
            return
        for node, make, values in self._held:
            self._emit(node, make, values)
        self._batch.keep(self._id, self._began, now, self._values)
        self._batch.tracer.emit(self._stage_span(now, status, error or {}))

    # Writing ---------------------------------------------------------------------------------------------------------

    def _call(
        self, model: str, began: int, ended: int, call: Call | None, prompt: Prompt | None, *, error: str = "",
        known: bool = False,
    ) -> None:  # fmt: skip
        """Write a call; one that corrects an answer is a part of the repair, which began before it."""
        node, repair = _node.get(), self._repair
        if repair is not None:
            self._repair = repair if error else None
            self._write(node, self._repair_span, ended, *repair)
        self._write(node, self._call_span, model, began, ended, call, prompt, error, known, repair)

    def _write(self, node: _Node | None, make: Make, *values: Any) -> None:
        if self._sampled:
            self._emit(node, make, values)
        elif len(self._held) < _MOST:
            self._held.append((node, make, values))

    def _emit(self, node: _Node | None, make: Make, values: tuple[Any, ...]) -> None:
        self._batch.tracer.emit(make(self._place if node is None else self._place_of(node), *values))

    @property
    def _place(self) -> Place:
        """The place of the stage's span."""
        return self._batch.row_place(self._id).below("stage", self._stage)

    def _place_of(self, node: _Node) -> Place:
        return self._place.below("node", node.name, str(node.number))

    # Spans -----------------------------------------------------------------------------------------------------------

    def _stage_span(self, ended: int, status: str, error: Mapping[str, Any]) -> Span:
        rejected = status == "rejected"
        attributes = {
            "tandem.stage": self._stage,
            "tandem.row.id": self._id,
            "tandem.row.outcome": status,
            "tandem.trace.reason": "sample" if self._sampled else "reject" if rejected else "slow",
            "tandem.attempt": self._batch.attempt,
        }
        return Span(
            f"stage {self._stage}", self._batch.row_place(self._id), self._began, ended, attributes, place=self._place,
            error=str(error.get("kind", "unknown")) if rejected else "",
            message=str(error.get("message", "")) if rejected and self._batch.content else "",
        )  # fmt: skip

    def _node_span(self, parent: Place, node: _Node, ended: int, error: BaseException | None) -> Span:
        attributes = {"tandem.node": node.name, "tandem.node.visit": node.number}
        failed = type(error).__name__ if error is not None else ""
        return Span(
            f"node {node.name}", parent, node.began, ended, attributes, place=self._place_of(node), error=failed
        )

    def _repair_span(self, parent: Place, ended: int, since: int, problem: str) -> Span:
        attributes = {"tandem.repair.problem": problem if self._batch.content else None}
        return Span("repair", parent, since, ended, attributes, place=parent.below("repair", str(since)))

    def _call_span(
        self, parent: Place, model: str, began: int, ended: int, call: Call | None, prompt: Prompt | None, error: str,
        known: bool, repair: tuple[int, str] | None,
    ) -> Span:  # fmt: skip
        if call is None:
            attributes = gen_ai.request_attributes(self._operation, model)
        else:
            attributes = gen_ai.call_attributes(self._operation, call, prompt, content=self._batch.content)
        if repair is not None:
            parent = parent.below("repair", str(repair[0]))
        return Span(
            f"{self._operation} {model.partition(':')[2] or model}", parent, began, ended,
            {**attributes, "tandem.journal.hit": known or None}, kind="client", error=error,
        )  # fmt: skip

    def _tool_span(self, parent: Place, tool: ToolCall, ended: int) -> Span:
        attributes = gen_ai.tool_attributes(tool, content=self._batch.content)
        return Span(
            f"{gen_ai.TOOL} {tool.name}", parent, ended - round(tool.seconds * _NS), ended,
            {**attributes, "tandem.journal.hit": tool.known or None}, error="tool_error" if tool.failed else "",
        )  # fmt: skip
