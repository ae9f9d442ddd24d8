"""Calls that wait for a provider batch job: noted in their row, and never answered in this run of it.

A call under `tier: batch` that is not known awaits a future that nobody resolves. No exception is raised, so nothing in
a user's graph can take it for a failure: not an `except Exception`, no retry, no fallback, no tool node. The row's
runner finds the row at rest and ends it; once the answers are in the journal, the row's graph is run again from there.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn
from weakref import WeakSet

from schemas.errors import RowError, TandemError
from schemas.messages.jobs import Late
from schemas.parked import ParkedCall
from stages.journal.records import CallKey

# The thread of a synchronous node that waits for the call; 0 for a call of the loop.
thread_of_call: ContextVar[int] = ContextVar("tandem_thread", default=0)


class RowParked(TandemError):
    """The row waits for a provider batch job with these calls."""

    retryable = True

    def __init__(self, calls: tuple[ParkedCall, ...]) -> None:
        super().__init__(f"the row waits for a provider batch job with {len(calls)} calls")
        self.calls = calls


@dataclass(eq=False)
class RowParking:
    """The calls of one run of a row that wait for a job. `print`: the row's fingerprint; `earlier`: what it parked in
    each earlier wave; `asked`: the calls of this run; `refused`: requests that a job refused for good; `at_work`: live
    calls and lookups of the row that are under way; `threads`: threads that wait for a parked call; `changes` counts
    what is noted here; `tasks` are those of the row's code."""

    stage: str
    print: str
    wave: int = 0
    late: Late = "next-job"
    earlier: Mapping[int, frozenset[CallKey]] = field(default_factory=dict)
    refused: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: dict[CallKey, ParkedCall] = field(default_factory=dict)
    asked: set[CallKey] = field(default_factory=set)
    at_work: int = 0
    threads: Counter[int] = field(default_factory=Counter)
    changes: int = 0
    tasks: "WeakSet[asyncio.Task[Any]]" = field(default_factory=WeakSet)
    begun: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as work of the row: it is not at rest."""
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1
            self.changes += 1

    def must_park(self, key: CallKey) -> bool:
        """True for an unknown call that has to wait for a job; False: it is made live. Raises RowError for one that a
        job has refused, or that none has answered in time: also for the same request, tried again by the row's code."""
        if (refusal := self.refused.get(key[0])) is not None:
            raise _refused(refusal)
        if self.late == "next-job" or not any(key[0] == asked for keys in self.earlier.values() for asked, _ in keys):
            return True
        if self.late == "reject":
            raise RowError("no job answered it within limits.deadline", kind="job_deadline")
        return False

    async def park(self, call: ParkedCall) -> NoReturn:
        """Note a call, and wait for ever."""
        self.calls.setdefault((call.request, call.ordinal), call)
        self.changes += 1
        if not self.begun.done():
            self.begun.set_result(None)
        thread = thread_of_call.get()
        self.threads[thread] += 1
        try:
            while True:
                await asyncio.get_running_loop().create_future()
        finally:
            self.threads[thread] -= 1

    @property
    def waiting_threads(self) -> int:
        """The number of threads that wait for parked calls."""
        return sum(count > 0 for thread, count in self.threads.items() if thread)

    def refuse_other_calls(self) -> None:
        """Raise RowError for a row that parks new calls, and has not asked what it had parked in its last wave: none of
        it, or not all of it for the second time."""
        if not self.earlier:
            return
        last = self.earlier[max(self.earlier)]
        missed = last - self.asked
        if missed == last or (missed and len(self.earlier) > 1):
            raise RowError(
                "the graph asks its model something else each time that it is run, so that no job can answer it: it "
                "uses time, random numbers or the order of a set; tier: standard asks it live",
                kind="not_replayable",
            )


def _refused(refusal: Mapping[str, Any]) -> RowError:
    message, kind = str(refusal.get("message", "refused")), str(refusal.get("kind", "bad_request"))
    return RowError(message, kind=kind, raw=refusal.get("raw"), status=refusal.get("status"))


@dataclass(eq=False)
class BatchParking:
    """The calls of one attempt of a batch that wait for jobs. `wave`: how often its partition waited before; `earlier`:
    for stage and row fingerprint, the calls that were parked in each earlier wave; `late` is for those of them that
    have no answer still."""

    wave: int = 0
    late: Late = "next-job"
    earlier: Mapping[tuple[str, str], Mapping[int, frozenset[CallKey]]] = field(default_factory=dict)
    refused: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: list[ParkedCall] = field(default_factory=list)

    def of_row(self, stage: str, row_print: str) -> RowParking:
        earlier = self.earlier.get((stage, row_print), {})
        return RowParking(stage, row_print, self.wave, self.late, earlier, self.refused)


def earlier_calls(
    files: Mapping[str, list[ParkedCall]], wave: int
) -> dict[tuple[str, str], dict[int, frozenset[CallKey]]]:
    """Return what rows parked before a wave, of the files of a batch."""
    found: dict[tuple[str, str], dict[int, frozenset[CallKey]]] = {}
    for calls in files.values():
        for call in calls:
            if call.wave < wave:
                waves = found.setdefault((call.stage, call.print), {})
                waves[call.wave] = waves.get(call.wave, frozenset()) | {(call.request, call.ordinal)}
    return found


JobBody = Callable[[int | None], dict[str, Any]]
