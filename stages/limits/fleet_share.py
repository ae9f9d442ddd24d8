"""The part of shared limits that one process may use. A queue reports its use, and whether limits delayed it, and gets
a share; the code that divides the limits is elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

# Of a limit, for a process without a granted share: conservative, so that ten such processes stay within it.
STATIC_SHARE = 0.1
_FIRST_S = 1.0  # the longest wait for the first share
_NOTHING_S = 0.5  # the wait before another try if the share is zero


@dataclass(frozen=True)
class Rates:
    """Requests and tokens a minute; infinite if not limited."""

    requests: float = inf
    tokens: float = inf

    def smaller(self, other: "Rates") -> "Rates":
        return Rates(min(self.requests, other.requests), min(self.tokens, other.tokens))

    def part(self, share: float) -> "Rates":
        return Rates(self.requests * share, self.tokens * share)


UNLIMITED = Rates()


@dataclass(frozen=True)
class Demand:
    """The use of a queue per minute since the last report; `hungry`: its limits delayed calls."""

    used: Rates
    hungry: bool


class Fleet:
    """The share of a queue in a fleet of processes. `request_share` is called when it needs a share."""

    def __init__(self, request_share: Callable[[], None]) -> None:
        self._request_share = request_share
        self._share = Rates()
        self._until = -inf
        self._first_until: float | None = None
        self._since: float | None = None
        self._requests = self._tokens = 0.0
        self.hungry = False
        self.used_at = -inf

    def grant(self, share: Rates, until: float) -> None:
        """Set the share, valid until a time (monotonic)."""
        self._share, self._until, self._first_until = share, until, -inf

    def end_grant(self) -> None:
        """End the share; the next call requests a new one."""
        self._until, self._first_until = -inf, None

    def part(self, limit: Rates, now: float) -> Rates:
        """Return our part of a limit: the share, or without one a static part."""
        if limit.requests == inf and limit.tokens == inf:
            return limit
        self.used_at = now
        if now < self._until:
            return limit.smaller(self._share) if self.wait(now) == 0 else limit.part(STATIC_SHARE)
        self._request_share()
        if self._first_until is None:
            self._first_until = now + _FIRST_S
        return limit.part(STATIC_SHARE)

    def wait(self, now: float) -> float:
        """Return seconds to wait for the first share, or for one above zero."""
        if now < self._until:
            return _NOTHING_S if min(self._share.requests, self._share.tokens) <= 0 else 0.0
        return max(0.0, (self._first_until or 0.0) - now)

    def count_use(self, requests: int, tokens: float) -> None:
        self._requests += requests
        self._tokens += tokens

    def demand(self, now: float) -> Demand:
        """Return the demand since the last call of this method."""
        minutes = max(now - (now if self._since is None else self._since), 0.05) / 60
        demand = Demand(Rates(self._requests / minutes, max(0.0, self._tokens) / minutes), self.hungry)
        self._since, self._requests, self._tokens, self.hungry = now, 0.0, 0.0, False
        return demand
