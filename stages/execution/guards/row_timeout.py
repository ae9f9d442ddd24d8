"""Reject rows that take too long by their own work; time spent waiting does not count."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import RowError
from stages.models.row.scope import RowScope

TIMED_OUT = "row_timeout"
_LOOK_EVERY_S = 1.0


@dataclass
class RowTimeouts:
    """The timeouts of one stage. `stuck` is called with a row whose thread runs on: threads cannot be stopped."""

    seconds: float
    stuck: Callable[[str], None] = lambda row: None
    _running: dict[int, tuple[RowScope, "asyncio.Task[Any]"]] = field(default_factory=dict)
    _late: set[int] = field(default_factory=set)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Cancel rows that take too long within the block."""
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    @contextmanager
    def row(self, scope: RowScope) -> Iterator[None]:
        """Time a row that the current task runs. Raises RowError if it takes too long."""
        task = asyncio.current_task()
        assert task is not None
        number = id(scope)
        self._running[number] = scope, task
        try:
            yield
        except asyncio.CancelledError:
            if number not in self._late:
                raise
            while task.uncancel():  # our own cancels; the batch's own comes again below
                pass
            raise RowError(f"the row took more than {self.seconds:g} s of its own time", kind=TIMED_OUT) from None
        finally:
            del self._running[number]
            self._late.discard(number)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_EVERY_S, self.seconds / 4))
            for number, (scope, task) in list(self._running.items()):
                if number not in self._late and scope.clock.seconds() > self.seconds:
                    self._late.add(number)
                    if scope.threads:
                        self.stuck(scope.id)
                    task.cancel()
