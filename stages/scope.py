"""The row that a graph is working for, visible below it through a context variable: in nodes, tools and subgraphs."""

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field

from schemas.errors import TandemError
from schemas.ids import digest
from stages.journal import CallKey, CallRecord, Journal


@dataclass
class Tally:
    """What a batch did below its graphs."""

    calls: int = 0
    calls_reused: int = 0
    unknown: int = 0


@dataclass
class RowScope:
    """One row's run of a graph. `asked` counts equal requests, so that the n-th of them has its own answer; `calls` are
    those it used. `stop` is what ended the row from below, even where the graph swallowed the exception."""

    id: str
    run: str
    batch: int
    journal: Journal
    tally: Tally
    in_flight: dict[CallKey, "asyncio.Future[CallRecord]"]
    loop: asyncio.AbstractEventLoop
    asked: Counter[str] = field(default_factory=Counter)
    calls: list[CallKey] = field(default_factory=list)
    stop: TandemError | None = None

    def next_key(self, request: str) -> CallKey:
        """The key of the next call with this request in this row."""
        ordinal = self.asked[request]
        self.asked[request] += 1
        key = (request, ordinal)
        self.calls.append(key)
        return key


current: ContextVar[RowScope | None] = ContextVar("tandem_row", default=None)


def request_digest(*parts: bytes) -> str:
    """Digest of a canonical request."""
    return digest(*parts)
