"""What one process may use of limits that several share. Who hands shares out is no business of ours: a place says what
it used and whether it was held back, and is told its share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

# Of a limit, for a process that nobody tells its share: conservative, so that ten such processes stay within it.
STATIC_SHARE = 0.1
_FIRST_S = 1.0  # how long the first share is waited for
_NOTHING_S = 0.5  # with a share of nothing, when to look again


@dataclass(frozen=True)
class Rates:
    """Requests and tokens a minute; infinite where nothing is said."""

    requests: float = inf
    tokens: float = inf

    def smaller(self, other: "Rates") -> "Rates":
        return Rates(min(self.requests, other.requests), min(self.tokens, other.tokens))

    def part(self, share: float) -> "Rates":
        return Rates(self.requests * share, self.tokens * share)


UNLIMITED = Rates()


@dataclass(frozen=True)
class Demand:
    """What a place used since it was last asked, a minute, and whether its limits held it back."""

    used: Rates
    hungry: bool


class Fleet:
    """A place's part in a fleet. `asks` is called when it needs to be told its share."""

    def __init__(self, asks: Callable[[], None]) -> None:
        self._asks = asks
        self._share = Rates()
        self._until = -inf
        self._first_until: float | None = None
        self._since: float | None = None
        self._requests = self._tokens = 0.0
        self.hungry = False
        self.used_at = -inf

    def grant(self, share: Rates, until: float) -> None:
        """So much, until a moment (monotonic)."""
        self._share, self._until, self._first_until = share, until, -inf

    def left(self) -> None:
        """The share was given back; the next call asks for one."""
        self._until, self._first_until = -inf, None

    def part(self, limit: Rates, now: float) -> Rates:
        """Of a limit, what is ours: the share, or without one a static part."""
        if limit.requests == inf and limit.tokens == inf:
            return limit
        self.used_at = now
        if now < self._until:
            return limit.smaller(self._share) if self.wait(now) == 0 else limit.part(STATIC_SHARE)
        self._asks()
        if self._first_until is None:
            self._first_until = now + _FIRST_S
        return limit.part(STATIC_SHARE)

    def wait(self, now: float) -> float:
        """Seconds to wait for the first share, or for one that is more than nothing."""
        if now < self._until:
            return _NOTHING_S if min(self._share.requests, self._share.tokens) <= 0 else 0.0
        return max(0.0, (self._first_until or 0.0) - now)

    def used(self, requests: int, tokens: float) -> None:
        self._requests += requests
        self._tokens += tokens

    def demand(self, now: float) -> Demand:
        """Since the last time that this was asked."""
        minutes = max(now - (now if self._since is None else self._since), 0.05) / 60
        demand = Demand(Rates(self._requests / minutes, max(0.0, self._tokens) / minutes), self.hungry)
        self._since, self._requests, self._tokens, self.hungry = now, 0.0, 0.0, False
        return demand
