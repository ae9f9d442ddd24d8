"""An event loop whose time passes only while everybody sleeps, and a provider in it: minutes of limits in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stages.limits.limiter import Blocked, Limiter
from tests.harness.script import Gate, Limits

T = TypeVar("T")


class _Skipping(selectors.DefaultSelector):
    """Instead of waiting, moves the clock."""

    skip: Callable[[float], None]

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("everybody waits for ever")
        if not found and timeout:
            self.skip(timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._at = 1000.0
        selector = _Skipping()
        selector.skip = self._skip
        super().__init__(selector)

    def _skip(self, seconds: float) -> None:
        self._at += seconds

    def time(self) -> float:
        return self._at


def virtually(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def clock() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Provider:
    """Answers after `latency_s`, within `limits`; `outages` are (from, to) in seconds since it began."""

    limits: Limits = field(default_factory=Limits)
    latency_s: float = 0.2
    refusal_s: float = 0.01
    tokens: int = 100
    outages: tuple[tuple[float, float], ...] = ()
    overload: int = 10**9  # calls at once above which it answers 529
    says_when: bool = True
    began: float = field(default_factory=clock)
    ok: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    in_flight: int = 0

    def __post_init__(self) -> None:
        self._gate = Gate(self.limits, self.began)

    async def ask(self, limiter: Limiter, size: int = 200, patience_s: float = 60.0) -> None:
        """One call as `stages.models.calls` makes it, until it is answered."""
        for attempt in range(1_000):
            try:
                async with limiter.call(size, patience_s=patience_s) as turn:
                    told = await self._answer()
                    if told is None:
                        turn.record_answer(self.tokens // 2, self.tokens - self.tokens // 2)
                        return
                    turn.record_failure(*told)
                if told[1] != "rate":
                    await asyncio.sleep(min(20.0, 0.5 * 2**attempt))
            except Blocked as blocked:
                await asyncio.sleep(blocked.seconds)

    async def _answer(self) -> tuple[str, str, float] | None:
        self.in_flight += 1
        try:
            since = clock() - self.began
            if any(begin <= since < end for begin, end in self.outages):
                await asyncio.sleep(self.refusal_s)
                self.failed.append(since)
                return "HTTP 500", "", 0.0
            wait = self._gate.refuse(self.in_flight, self.tokens, clock())
            if wait is not None:
                await asyncio.sleep(self.refusal_s)
                self.refused.append(since)
                return "HTTP 429", "rate", float(wait) if self.says_when else 0.0
            if self.in_flight > self.overload:
                await asyncio.sleep(self.refusal_s)
                self.refused.append(since)
                return "HTTP 529", "overload", 0.0
            await asyncio.sleep(self.latency_s)
            self.ok.append(clock() - self.began)
            return None
        finally:
            self.in_flight -= 1

    def answered(self, begin: float, end: float) -> int:
        return sum(begin <= at < end for at in self.ok)


async def crowd(provider: Provider, limiter: Limiter, seconds: float, rows: int = 64) -> None:
    """So many that always have something to ask, for so long."""

    async def one() -> None:
        while clock() - provider.began < seconds:
            await provider.ask(limiter)

    await asyncio.gather(*(one() for _ in range(rows)))
