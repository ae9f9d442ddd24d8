"""The row that a graph is working for, visible below it through a context variable: in nodes, tools and subgraphs."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.digests import digest
from schemas.errors import RowError, TandemError
from stages.journal.records import CallKey, CallRecord
from stages.journal.writer import Journal
from stages.limits.budget import Budget
from stages.models.row.clock import RowClock
from stages.models.row.parking import RowParking
from stages.observer import RowObserver


class RowStopped(TandemError):
    """The row or call that others waited for was cancelled; they run it themselves."""

    retryable = True


@dataclass
class Tally:
    """Counts of the model calls of a batch; of its rejected rows, and of calls that were made again, by class."""

    calls: int = 0
    cost_usd: float = 0.0
    calls_reused: int = 0
    unknown: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    failed_calls: Counter[str] = field(default_factory=Counter)

    def note_reject(self, error: Mapping[str, Any] | None, rows: int) -> None:
        """Count the rows of a reject by its class."""
        self.rejects[str((error or {}).get("kind", "other"))] += rows


class Repeats(Protocol):
    """Calls of a graph that is run in rounds (`stages.execution.engine.interrupts.Rounds`)."""

    def again(self, request: str) -> CallKey | None: ...

    def first(self, key: CallKey) -> None: ...


@dataclass
class RowScope:
    """One row's run of a graph. `request_counts` counts equal requests, so that the n-th of them has its own answer;
    `calls` are the calls used; `budget` is their budget, if money is counted; `cache_missed` are calls of the graph's
    own models that LangChain looked up and did not store yet. `stop` is the error that must end the batch, even if the
    graph catches it; `halted` returns the reason why the batch makes no more calls. `rounds` knows earlier calls of
    tasks that are run again. `mended`: the places of answers that were corrected. `own`: with
    `share: false`, the row's fingerprint. `no_calls`: only known answers are used. `heard`: LangChain's callbacks hear
    of its calls."""

    id: str
    run: str
    batch: int
    journal: Journal
    tally: Tally
    in_flight: dict[CallKey, "asyncio.Future[CallRecord]"]
    loop: asyncio.AbstractEventLoop
    request_counts: Counter[str] = field(default_factory=Counter)
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
    own: str = ""
    no_calls: bool = False
    clock: RowClock = field(default_factory=RowClock)
    threads: int = 0  # in which its code runs now
    awaits_tool: bool = False  # it was halted before a tool ran
    observer: RowObserver | None = None
    steps: int = 0  # that its code has taken
    heard: bool = False
    parking: RowParking | None = None  # where its calls may wait for provider batch jobs

    def next_key(self, request: str) -> CallKey:
        """Return the key of the next call with this request in this row."""
        request = self.own_digest(request)
        key = self.rounds.again(request) if self.rounds is not None else None
        if key is None:
            key = (request, self.request_counts[request])
            self.request_counts[request] += 1
            self.calls.append(key)
            if self.rounds is not None:
                self.rounds.first(key)
        if (made := calls_of_node.get()) is not None:
            made.append(key)
        return key

    def own_digest(self, request: str) -> str:
        """Return a request's digest; where rows do not share answers, it is one of this row only."""
        return digest(request, self.own) if self.own else request

    def use(self, key: CallKey, record: CallKey) -> None:
        """Note that a call's answer is in the journal under another key than the call's own."""
        for calls in (self.calls, calls_of_node.get() or []):
            if key != record and key in calls:
                calls[calls.index(key)] = record

    def replay_calls(self, calls: Iterable[CallKey]) -> None:
        """Count the calls of a node that is not run again."""
        for key in calls:
            if self.parking is not None:
                self.parking.asked.add(key)
            if key not in self.calls:
                self.calls.append(key)
            self.request_counts[key[0]] = max(self.request_counts[key[0]], key[1] + 1)

    def count_reuse(self, record: CallRecord) -> None:
        """Count a reused answer. A call that this row made in this run is its own, not a reuse."""
        if record.run != self.run or record.id != self.id:
            self.tally.calls_reused += 1
        if self.observer is not None:
            self.observer.call_reused(record)

    def record_failure(self, exc: Exception) -> None:
        """Remember an error that is not the row's own fault. A RowError is left to the graph."""
        if self.stop is None and not isinstance(exc, RowError):
            self.stop = exc

    def close(self) -> None:
        """Close the scope: threads and tasks that the graph left running get no more answers."""
        self.closed = True
        for call in tuple(self.from_threads):
            call.cancel()


calls_of_node: ContextVar[list[CallKey] | None] = ContextVar("tandem_node", default=None)
current: ContextVar[RowScope | None] = ContextVar("tandem_row", default=None)


def request_digest(*parts: bytes) -> str:
    """Digest of a canonical request."""
    return digest(*parts)
