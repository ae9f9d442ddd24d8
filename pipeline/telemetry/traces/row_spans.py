"""One row in one stage as spans: the stage, its nodes, their calls of models and tools, and repairs.

A sampled row's spans are written as they end, so that those of a process that is killed are not lost with it; the
others are kept in memory until the row's end says whether it was rejected or slow. Attributes are made only for what is
written.
"""

import time
from collections import Counter
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
Make = Callable[[Place], Span]  # makes a span below this place


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

    def __init__(
        self, batch: Batch, stage: str, operation: str, id: str, sampled: bool, values: Mapping[str, Any] | None
    ) -> None:
        self._batch, self._stage, self._operation, self._id = batch, stage, operation, id
        self._sampled, self._values = sampled, values
        self._content = batch.content
        self._began = time.time_ns()
        self._held: list[tuple[_Node | None, Make]] = []
        self._visits: Counter[str] = Counter()
        self._places: dict[tuple[str, int], Place] = {}
        self._repair: tuple[int, str] | None = None

    # As `stages.observer.RowObserver` --------------------------------------------------------------------------------

    def node_began(self, name: str) -> _Node:
        self._visits[name] += 1
        node = _Node(name, self._visits[name], time.time_ns())
        node.token = _node.set(node)
        return node

    def node_ended(self, node: _Node, error: BaseException | None) -> None:
        if node.token is not None:
            _node.reset(node.token)
        failed, ended = type(error).__name__ if error is not None else "", time.time_ns()
        self._write(None, lambda parent: Span(
            f"node {node.name}", parent, node.began, ended,
            {"tandem.node": node.name, "tandem.node.visit": node.number}, place=self._place_of(node), error=failed,
        ))  # fmt: skip

    def call_answered(self, call: Call, prompt: Prompt | None) -> None:
        ended = round(call.at * _NS)
        began = ended - call.latency_ms * 1_000_000
        self._call(began, ended, call.model, lambda: self._of_call(call, prompt))

    def call_reused(self, call: Call) -> None:
        now = time.time_ns()
        self._call(now, now, call.model, lambda: {**self._of_call(call, None), "tandem.journal.hit": True})

    def call_failed(self, model: str, seconds: float, error: str) -> None:
        now = time.time_ns()
        self._call(
            now - round(seconds * _NS), now, model, lambda: gen_ai.request_attributes(self._operation, model), error
        )

    def tool_ended(self, tool: ToolCall) -> None:
        now = time.time_ns()
        self._write(_node.get(), lambda parent: Span(
            f"{gen_ai.TOOL} {tool.name}", parent, now - round(tool.seconds * _NS), now,
            {**gen_ai.tool_attributes(tool, content=self._content), "tandem.journal.hit": tool.known or None},
            error="tool_error" if tool.failed else "",
        ))  # fmt: skip

    def repair_began(self, problem: str) -> None:
        self._repair = time.time_ns(), problem

    def ended(self, status: str, error: Mapping[str, Any] | None) -> None:
        now = time.time_ns()
        slow = self._batch.tracer.slow_rows(self._stage).is_slow((now - self._began) / _NS)
        if not (self._sampled or slow or status == "rejected"):
            return
        for node, make in self._held:
            self._emit(node, make)
        self._batch.keep(self._id, self._began, now, self._values)
        kind = str((error or {}).get("kind", "unknown")) if status == "rejected" else ""
        message = str((error or {}).get("message", "")) if self._content and kind else ""
        reason = "sample" if self._sampled else "reject" if kind else "slow"
        self._batch.tracer.emit(Span(
            f"stage {self._stage}", self._batch.row_place(self._id), self._began, now,
            {"tandem.stage": self._stage, "tandem.row.id": self._id, "tandem.row.outcome": status,
             "tandem.trace.reason": reason, "tandem.attempt": self._batch.attempt},
            place=self._place, error=kind, message=message,
        ))  # fmt: skip

    # Places and writing ----------------------------------------------------------------------------------------------

    def _call(
        self, began: int, ended: int, model: str, attributes: Callable[[], dict[str, Any]], error: str = ""
    ) -> None:
        """Write a call; one that corrects an answer is a part of the repair, which began before it."""
        node, repair, name = _node.get(), self._repair, f"{self._operation} {model.partition(':')[2] or model}"

        def of_call(parent: Place) -> Span:
            return Span(name, parent, began, ended, attributes(), kind="client", error=error)

        if repair is None:
            self._write(node, of_call)
            return
        since, problem = repair
        self._repair = repair if error else None
        place = self._parent(node).below("repair", str(since))
        self._write(node, lambda parent: Span(
            "repair", parent, since, ended, {"tandem.repair.problem": problem if self._content else None}, place=place,
        ))  # fmt: skip
        self._write(node, lambda _: of_call(place))

    def _of_call(self, call: Call, prompt: Prompt | None) -> dict[str, Any]:
        return gen_ai.call_attributes(self._operation, call, prompt, content=self._content)

    def _write(self, node: _Node | None, make: Make) -> None:
        if self._sampled:
            self._emit(node, make)
        elif len(self._held) < _MOST:
            self._held.append((node, make))

    def _emit(self, node: _Node | None, make: Make) -> None:
        self._batch.tracer.emit(make(self._parent(node)))

    @property
    def _place(self) -> Place:
        """The place of the stage's span."""
        found = self._places.get(("", 0))
        if found is None:
            found = self._places["", 0] = self._batch.row_place(self._id).below("stage", self._stage)
        return found

    def _place_of(self, node: _Node) -> Place:
        found = self._places.get((node.name, node.number))
        if found is None:
            found = self._places[node.name, node.number] = self._place.below("node", node.name, str(node.number))
        return found

    def _parent(self, node: _Node | None) -> Place:
        return self._place if node is None else self._place_of(node)
