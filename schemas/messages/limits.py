"""Limits that the workers of a fleet share: the limiter workflow and its leases."""

from schemas.messages.base import Message


class PerMinute(Message):
    """Requests and tokens per minute; None for no limit."""

    requests: float | None = None
    tokens: float | None = None


class LeaseRequest(Message):
    """A worker's request for its share of a limit: the limit of its specs, its recent usage, and `hungry` if it was
    held back. `holds` is the number of its last lease. With `leaving`, it gives its share back."""

    worker: str
    limit: PerMinute = PerMinute()
    used: PerMinute = PerMinute()
    hungry: bool = False
    holds: int = 0
    leaving: bool = False


class Lease(Message):
    """A share per minute. It is valid for `seconds` at the limiter, and half of that at the worker, from its request
    on."""

    number: int
    share: PerMinute
    seconds: float


class Leaseholder(Message):
    """The limiter's record of a worker. `before` is the share that it may still use, until it confirms `lease`."""

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
