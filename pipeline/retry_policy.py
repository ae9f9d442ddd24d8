"""Retry small steps outside of model calls: two patterns of pauses, over stamina.

    after_failure   a store or a server that fails: 0.05 s, doubling, at most 2 s
    until_first     an optimistic write that lost to another writer: random pauses, so that the losers of one round do
                    not collide again in the next

`stamina.set_testing` removes the pauses. Blocking pauses go through `tenacity.nap`, whose `time` the simulation
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
    """Another writer was first: read its result and write again."""


def after_failure(work: Callable[[], T], *, on: Failures, attempts: int) -> T:
    """Call `work` until it raises none of `on`. The error of the last attempt is raised as it is."""
    caller = stamina.RetryingCaller(
        attempts=attempts, timeout=None, wait_initial=_FIRST_S, wait_jitter=_FIRST_S, wait_max=_LONGEST_S
    )
    return caller(on, work)


async def after_failure_async(work: Callable[[], Awaitable[T]], *, on: Failures, attempts: int) -> T:
    """Call the coroutine function `work` until it raises none of `on`."""
    caller = stamina.AsyncRetryingCaller(
        attempts=attempts, timeout=None, wait_initial=_FIRST_S, wait_jitter=_FIRST_S, wait_max=_LONGEST_S
    )
    return await caller(on, work)


def until_first(write: Callable[[], T], *, attempts: int, spread_s: float) -> T:
    """Call `write`, which reads, changes and writes conditionally, until it does not raise Overtaken.

    Pauses are up to `spread_s` seconds: the time of one write times the number of expected writers. Raises Overtaken
    when the attempts are used up."""
    caller = stamina.RetryingCaller(
        attempts=attempts, timeout=None, wait_initial=0.0, wait_exp_base=1, wait_jitter=spread_s, wait_max=spread_s
    )
    return caller(Overtaken, write)
