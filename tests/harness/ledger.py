"""What the model server remembers: one record a request, and their totals."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

_MESSAGE_KEPT = 1000  # characters; 20,000 records stay within some tens of megabytes


@dataclass(slots=True)
class Call:
    """One request. `status` is 0 while, or if, no answer was sent; `fault` is the action that spoilt the answer."""

    n: int
    digest: str
    model: str
    message: str
    in_flight: int
    t_start: float
    t_end: float | None = None
    status: int = 0
    fault: str | None = None
    answered: bool = False  # the response was written completely
    disconnected: bool = False  # the client went away first
    usage: dict[str, int] = field(default_factory=dict)
    cap: int | None = None  # max_tokens, by whatever name


@dataclass(slots=True)
class Stats:
    """`answered_ok` are sound answers; `billed` are all with status 200 (refusals, bad JSON …), completely written.

    Tokens are those of billed answers. `max_ok_per_content` is 1 where no content was answered well twice.
    """

    requests: int = 0
    answered_ok: int = 0
    billed: int = 0
    by_status: dict[int, int] = field(default_factory=dict)
    in_flight: int = 0
    max_in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    contents: int = 0
    max_ok_per_content: int = 0


class Ledger:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._seen: Counter[str] = Counter()
        self._ok: Counter[str] = Counter()
        self._by_status: Counter[int] = Counter()
        self._stats = Stats()

    def open(self, digest: str, model: str, message: str) -> tuple[Call, int]:
        """The new record, and how many requests had the same content before it."""
        stats = self._stats
        stats.requests += 1
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        call = Call(stats.requests, digest, model, message[:_MESSAGE_KEPT], stats.in_flight, time.time())
        self.calls.append(call)
        before = self._seen[digest]
        self._seen[digest] += 1
        return call, before

    def close(self, call: Call) -> None:
        stats = self._stats
        call.t_end = time.time()
        stats.in_flight -= 1
        self._by_status[call.status] += 1
        if not (call.answered and call.status == 200):
            return
        stats.billed += 1
        stats.prompt_tokens += call.usage["prompt_tokens"]
        stats.completion_tokens += call.usage["completion_tokens"]
        if call.fault is None:
            stats.answered_ok += 1
            self._ok[call.digest] += 1

    def stats(self) -> Stats:
        self._stats.by_status = dict(self._by_status)
        self._stats.contents = len(self._seen)
        self._stats.max_ok_per_content = max(self._ok.values(), default=0)
        return self._stats
