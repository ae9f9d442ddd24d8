"""A provider with a limit that it does not document, in virtual time: what a client gets of it, and how often it is
refused.

The measure is an even client that knows the limit and starts from the same state of the provider: where a first burst
has used up a window, nobody gets a call before its end.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stages.limits.fleet_share import Rates
from stages.limits.limiter import Blocked, Limiter
from stages.limits.provider_queue import ProviderQueue
from stages.limits.rate_headers import rates_of
from tests.stages.virtual import clock, virtually

Shape = Literal["bucket", "burst", "sliding", "fixed"]
Change = Literal["steady", "halved", "doubled"]
FACTOR: dict[Change, float] = {"steady": 1.0, "halved": 0.5, "doubled": 2.0}
SHAPES: tuple[Shape, ...] = ("bucket", "burst", "sliding", "fixed")
CHANGES: tuple[Change, ...] = ("steady", "halved", "doubled")
# Seconds before, and after, a change.
PHASE_S = {60: 420.0, 600: 240.0, 6_000: 150.0}
WINDOW_S = 60.0
LEAST = 0.9  # of the limit


class HiddenLimit(Protocol):
    """`wait` returns seconds until a call would be accepted, 0 for now; `take` counts one that is."""

    per_minute: float

    def wait(self, now: float) -> float: ...

    def take(self, now: float) -> None: ...

    def left(self, now: float) -> tuple[int, float]:
        """Return the calls that would be accepted at once, and seconds until all of the limit is there again."""


@dataclass
class TokenBucket:
    """Refilled evenly; holds `burst_s` seconds of the limit, one call at least."""

    per_minute: float
    burst_s: float
    _level: float = math.inf
    _at: float = 0.0

    @property
    def _capacity(self) -> float:
        return max(1.0, self.per_minute / 60 * self.burst_s)

    def wait(self, now: float) -> float:
        self._level = min(self._capacity, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        missing = 1.0 - self._level
        return missing / self.per_minute * 60 if missing > 1e-9 else 0.0

    def take(self, now: float) -> None:
        self._level -= 1

    def left(self, now: float) -> tuple[int, float]:
        self.wait(now)
        return int(self._level), (self._capacity - self._level) / self.per_minute * 60


@dataclass
class SlidingWindow:
    """So many in any `window_s` seconds."""

    per_minute: float
    window_s: float = WINDOW_S
    _taken: deque[float] = field(default_factory=deque)

    @property
    def _most(self) -> int:
        return max(1, round(self.per_minute * self.window_s / 60))

    def wait(self, now: float) -> float:
        while self._taken and now - self._taken[0] >= self.window_s - 1e-9:
            self._taken.popleft()
        over = len(self._taken) - self._most
        return 0.0 if over < 0 else self._taken[over] + self.window_s - now

    def take(self, now: float) -> None:
        self._taken.append(now)

    def left(self, now: float) -> tuple[int, float]:
        self.wait(now)
        return max(0, self._most - len(self._taken)), self._taken[-1] + self.window_s - now if self._taken else 0.0


@dataclass
class FixedWindow:
    """So many between two full minutes of the provider's clock, which is `phase_s` ahead of ours."""

    per_minute: float
    window_s: float = WINDOW_S
    phase_s: float = 17.0
    _window: int = -1
    _taken: int = 0

    def wait(self, now: float) -> float:
        window = math.floor((now + self.phase_s) / self.window_s + 1e-9)
        if window != self._window:
            self._window, self._taken = window, 0
        left = max(1, round(self.per_minute * self.window_s / 60)) - self._taken
        return 0.0 if left > 0 else (window + 1) * self.window_s - self.phase_s - now

    def take(self, now: float) -> None:
        self._taken += 1

    def left(self, now: float) -> tuple[int, float]:
        self.wait(now)
        left = max(0, max(1, round(self.per_minute * self.window_s / 60)) - self._taken)
        return left, (self._window + 1) * self.window_s - self.phase_s - now


def hidden_limit(shape: Shape, per_minute: float) -> HiddenLimit:
    if shape == "sliding":
        return SlidingWindow(per_minute)
    return FixedWindow(per_minute) if shape == "fixed" else TokenBucket(per_minute, 60.0 if shape == "burst" else 1.0)


@dataclass(frozen=True)
class Cell:
    """One case of the grid."""

    shape: Shape
    per_minute: int
    change: Change = "steady"
    retry_after: bool = False
    headers: bool = False
    latency_s: float = 0.2
    refusal_s: float = 0.02
    rows: int = 64

    def __str__(self) -> str:
        hints = "+".join(name for name, on in (("Retry-After", self.retry_after), ("headers", self.headers)) if on)
        return f"{self.per_minute}/min {self.shape} {self.change} {hints or 'no hints'}"


@dataclass(frozen=True)
class Share:
    """What was measured in one phase, from ten seconds or thirty calls on.

    `of_even`: of the calls that an even client gets from there on; `of_limit`: of the limit, whatever the provider's
    state; `refused`: in the steady state, which begins a minute later; `most`: the most that were allowed; `early`:
    refused before.
    """

    of_even: float
    of_limit: float
    refused: int
    most: float
    early: int

    @property
    def holds(self) -> bool:
        return self.of_even >= LEAST and self.refused <= self.most

    def __str__(self) -> str:
        got = f"{self.of_even:.0%} ({self.of_limit:.0%})"
        return f"{got}, {self.refused} of at most {self.most:.0f} refused, {self.early} before"


@dataclass
class Provider:
    """Accepts calls within a limit, and notes the times."""

    cell: Cell
    limit: HiddenLimit
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    stopped: bool = False

    async def ask(self, limiter: Limiter) -> None:
        """Make one call until it is answered."""
        while not self.stopped:
            try:
                async with limiter.call(200, patience_s=60.0) as turn:
                    now = clock()
                    wait = self.limit.wait(now)
                    if wait <= 0:
                        self.limit.take(now)
                        self.accepted.append(now)
                        await asyncio.sleep(self.cell.latency_s)
                        turn.record_answer(50, 50, self._advertised())
                        return
                    self.refused.append(now)
                    await asyncio.sleep(self.cell.refusal_s)
                    seconds = float(max(1, math.ceil(wait))) if self.cell.retry_after else 0.0
                    turn.record_failure("HTTP 429", "rate", seconds)
            except Blocked as blocked:
                await asyncio.sleep(blocked.seconds)

    def _advertised(self) -> Rates | None:
        if not self.cell.headers:
            return None
        left, whole_in = self.limit.left(clock())
        return rates_of(
            {
                "x-ratelimit-limit-requests": f"{self.limit.per_minute:.0f}",
                "x-ratelimit-remaining-requests": str(left),
                "x-ratelimit-reset-requests": f"{whole_in:.3f}s",
            }
        )

    def share(self, begin: float, end: float, limit: HiddenLimit) -> Share:
        """Return what was got in a phase; `limit` is a copy of its state when the phase began."""
        first = bisect_left(self.accepted, begin)
        thirtieth = self.accepted[first + 29] if first + 29 < len(self.accepted) else end
        mark = min(max(begin + 10, thirtieth), end - 1)
        for accepted in self.accepted[first : bisect_left(self.accepted, mark)]:
            limit.wait(accepted)
            limit.take(accepted)
        steady = mark + WINDOW_S
        got, refused = _between(self.accepted, mark, end), _between(self.refused, steady, end)
        calls = _between(self.accepted, steady, end) + refused
        return Share(
            of_even=got / max(1, _even(limit, mark, end)),
            of_limit=got / (limit.per_minute / 60 * (end - mark)),
            refused=refused,
            most=max(0.02 * calls, math.ceil((end - steady) / 120)),
            early=_between(self.refused, begin, steady),
        )


def _between(times: list[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


def _even(limit: HiddenLimit, begin: float, end: float) -> int:
    """Count the calls that an even client gets that knows the limit."""
    now, got = begin, 0
    while now < end:
        wait = limit.wait(now)
        if wait > 0:
            now += wait + 1e-6
            continue
        limit.take(now)
        got += 1
        now += 60 / limit.per_minute
    return got


async def _work(cell: Cell) -> list[Share]:
    provider = Provider(cell, hidden_limit(cell.shape, cell.per_minute))
    limiter = Limiter(cell.rows, _queue=ProviderQueue(ramps=True))

    async def row() -> None:
        while not provider.stopped:
            await provider.ask(limiter)

    rows: list[asyncio.Task[None]] = []
    shares = []
    for factor in (1.0,) if cell.change == "steady" else (1.0, FACTOR[cell.change]):
        begin, limit = clock(), provider.limit
        limit.wait(begin)
        limit.per_minute *= factor
        before = copy.deepcopy(limit)
        rows = rows or [asyncio.create_task(row()) for _ in range(cell.rows)]
        await asyncio.sleep(PHASE_S[cell.per_minute])
        shares.append(provider.share(begin, clock(), before))
    provider.stopped = True
    for task in rows:
        task.cancel()
    await asyncio.gather(*rows, return_exceptions=True)
    return shares


def measure(cell: Cell) -> list[Share]:
    """Return what the limiter gets in a cell: in its only phase, or before and after the change."""
    return virtually(_work(cell))


def grid() -> list[Cell]:
    return [
        Cell(shape, per_minute, change, retry_after, headers)
        for per_minute, shape, change, retry_after, headers in itertools.product(
            PHASE_S, SHAPES, CHANGES, (False, True), (False, True)
        )
    ]
