"""Few threads for the work of small partitions on this machine's disk.

It is two dozen steps of a millisecond each. With a thread for each partition in flight, threads wake each other all the
time to take turns for the interpreter; with few, each finds it free. Two, so that one has it while the other waits for
the disk.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from stages.execution.guards.row_threads import RowThreads
from stages.models.row import scope

_FEW = 2
_short: ContextVar[bool] = ContextVar("short", default=False)


@contextmanager
def short_work(*, short: bool = True) -> Iterator[None]:
    """Take the few threads for what the block, and the tasks that it starts, put into threads; nodes of users' graphs
    excepted, which may take long. What is put there must not wait for other work of this process. `short` false: what
    the block starts may take long."""
    before = _short.set(short)
    try:
        yield
    finally:
        _short.reset(before)


class ActivityThreads(RowThreads):
    """The threads of a worker: many, of which nodes may hold each for long, and few for short work."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="tandem")
        self._few = ThreadPoolExecutor(_FEW, thread_name_prefix="tandem-short")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        if _short.get() and scope.current.get() is None:
            return self._few.submit(fn, *args, **kwargs)
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._few.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)
