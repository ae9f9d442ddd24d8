"""Limits that the workers of a fleet share: the limiter workflow and its leases."""

from schemas.messages.base import Message


class PerMinute(Message):
    """Requests and tokens a minute; None where there is no bound."""

    requests: float | None = None
    tokens: float | None = None


class LeaseRequest(Message):
    """A worker's wish for its share of a limit: what its specs allow, what it used of late, whether it was held back.
    `holds` is the number of the lease that it got last. With `leaving`, it wants none."""

    worker: str
    limit: PerMinute = PerMinute()
    used: PerMinute = PerMinute()
    hungry: bool = False
    holds: int = 0
    leaving: bool = False


class Lease(Message):
    """So much a minute. Worth `seconds` to who gives it, half of that to who holds it, counted from when it asked."""

    number: int
    share: PerMinute
    seconds: float


class Leaseholder(Message):
    """A worker as the limiter knows it. `before` is what it may be using still, until it says that it has `lease`."""

    limit: PerMinute
    used: PerMinute
    hungry: bool
    lease: Lease
    before: PerMinute
    until: float


class LimiterInput(Message):
    """The holders that outlive one Temporal execution."""

    holders: dict[str, Leaseholder] = {}
    number: int = 0
