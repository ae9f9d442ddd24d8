"""Threads for synchronous nodes, counted by row, so that a thread that does not end is found."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stages.models.row.scope import current


class RowThreads(ThreadPoolExecutor):
    """A pool; `scope.threads` of a row is the number of its running threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        scope = current.get()
        if scope is None:
            return super().submit(fn, *args, **kwargs)
        scope.threads += 1
        home = os.getpid()

        def run() -> Any:
            try:
                return fn(*args, **kwargs)
            finally:
                scope.threads -= 1
                if os.getpid() != home:  # the row has forked, and runs twice
                    os._exit(0)

        return super().submit(run)
