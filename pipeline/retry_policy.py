"""How our own small steps are tried again outside of models: two curves of pauses, written once over stamina.

    after_failure   a store or a server that fails: 0.05 s, doubling, at most 2 s
    until_first     an optimistic write that another writer beat: pauses at random, as losers of one round must not
                    meet again in the next

`stamina.set_testing` takes the pauses away. Blocking pauses go through `tenacity.nap`, whose `time` the simulation
replaces by its own clock; their jitter comes from `random`, which it seeds.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

T = TypeVar("T")
Failures = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]

_FIRST_S = 0.05
_LONGEST_S = 2.0


class Overtaken(Exception):
    """Another writer was first: read what it wrote and build on that."""


def after_failure(work: Callable[[], T], *, on: Failures, attempts: int) -> T:
    """Call `work` until it doesn't raise one of `on`. The last attempt's failure is raised as it is."""
    caller = stamina.RetryingCaller(
        attempts=attempts, timeout=None, wait_initial=_FIRST_S, wait_jitter=_FIRST_S, wait_max=_LONGEST_S
    )
    return caller(on, work)


async def after_failure_async(work: Callable[[], Awaitable[T]], *, on: Failures, attempts: int) -> T:
    """The same for a coroutine function."""
    caller = stamina.AsyncRetryingCaller(
        attempts=attempts, timeout=None, wait_initial=_FIRST_S, wait_jitter=_FIRST_S, wait_max=_LONGEST_S
    )
    return await caller(on, work)


def until_first(write: Callable[[], T], *, attempts: int, spread_s: float) -> T:
    """Call `write`, which reads, changes and writes on condition that nobody else did, until it isn't Overtaken.

    Pauses are up to `spread_s` seconds: what one write takes times the writers to expect. Raises Overtaken when the
    attempts are used up.
    """
    caller = stamina.RetryingCaller(
        attempts=attempts, timeout=None, wait_initial=0.0, wait_exp_base=1, wait_jitter=spread_s, wait_max=spread_s
    )
    return caller(Overtaken, write)
