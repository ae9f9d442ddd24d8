"""The row that a graph is working for, visible below it through a context variable: in nodes, tools and subgraphs."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.digests import digest
from schemas.errors import RowError, TandemError
from stages.journal.records import CallKey, CallRecord
from stages.journal.writer import Journal
from stages.limits.budget import Budget
from stages.models.row_clock import RowClock


class RowStopped(TandemError):
    """Who was doing this for others too was cancelled; they ask for themselves."""

    retryable = True


@dataclass
class Tally:
    """What a batch did below its graphs."""

    calls: int = 0
    cost_usd: float = 0.0
    calls_reused: int = 0
    unknown: int = 0


class Repeats(Protocol):
    """Calls of a graph that is run in rounds (`stages.execution.interrupts.Rounds`)."""

    def again(self, request: str) -> CallKey | None: ...

    def first(self, key: CallKey) -> None: ...


@dataclass
class RowScope:
    """One row's run of a graph. `asked` counts equal requests, so that the n-th of them has its own answer; `calls` are
    those it used; `budget`, where money is counted, is what they may cost; `cache_missed` are those of the graph's own
    models that LangChain has asked about and not yet answered. `stop` is what must end the batch, even where the graph
    swallows the exception; `halted` says why the batch pays for nothing more. `rounds`, where tasks of the graph are
    run again, knows what they asked before. `mended`: the places of answers that were nearly what was asked for."""

    id: str
    run: str
    batch: int
    journal: Journal
    tally: Tally
    in_flight: dict[CallKey, "asyncio.Future[CallRecord]"]
    loop: asyncio.AbstractEventLoop
    asked: Counter[str] = field(default_factory=Counter)
    calls: list[CallKey] = field(default_factory=list)
    stop: Exception | None = None
    halted: Callable[[], TandemError | None] = lambda: None
    budget: Budget | None = None
    cache_missed: defaultdict[str, list[CallKey]] = field(default_factory=lambda: defaultdict(list))
    from_threads: set["Future[Any]"] = field(default_factory=set)
    closed: bool = False
    rounds: Repeats | None = None
    mended: set[str] = field(default_factory=set)
    stage: str = ""
    clock: RowClock = field(default_factory=RowClock)
    threads: int = 0  # in which its code is at work just now

    def next_key(self, request: str) -> CallKey:
        """The key of the next call with this request in this row."""
        key = self.rounds.again(request) if self.rounds is not None else None
        if key is None:
            key = (request, self.asked[request])
            self.asked[request] += 1
            self.calls.append(key)
            if self.rounds is not None:
                self.rounds.first(key)
        if (made := calls_of_node.get()) is not None:
            made.append(key)
        return key

    def repeated(self, calls: Iterable[CallKey]) -> None:
        """A node that is not run again has made these calls."""
        for key in calls:
            if key not in self.calls:
                self.calls.append(key)
            self.asked[key[0]] = max(self.asked[key[0]], key[1] + 1)

    def took(self, record: CallRecord) -> None:
        """Count an answer that was there already. What this row asked in this run is its own, not a reuse."""
        if record.run != self.run or record.id != self.id:
            self.tally.calls_reused += 1

    def failed(self, exc: Exception) -> None:
        """Remember what is not the row's own fault. A RowError is the graph's to handle."""
        if self.stop is None and not isinstance(exc, RowError):
            self.stop = exc

    def close(self) -> None:
        """The graph is over: what it left running in threads and tasks gets no more answers."""
        self.closed = True
        for call in tuple(self.from_threads):
            call.cancel()


calls_of_node: ContextVar[list[CallKey] | None] = ContextVar("tandem_node", default=None)
current: ContextVar[RowScope | None] = ContextVar("tandem_row", default=None)


def request_digest(*parts: bytes) -> str:
    """Digest of a canonical request."""
    return digest(*parts)
