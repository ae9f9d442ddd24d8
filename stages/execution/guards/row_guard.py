"""Rows whose code raises exceptions that are meant for a process: SystemExit, KeyboardInterrupt, GeneratorExit, a bare
BaseException.

asyncio takes the first two out of the task that raised them and through the loop, which ends everything. So the tasks
that a row's graph starts are guarded where they begin: an exception that escapes becomes the row's error. Code that
runs in a thread is guarded by the task that awaits it.
"""

import asyncio
import os
from collections.abc import Coroutine, Generator
from typing import Any, Self

from schemas.errors import RowError
from stages.execution.guards.blocking import NodeBlocks, loop_use
from stages.models.row.scope import RowScope, current
from stages.text.exceptions import text_of

_Steps = Coroutine[Any, Any, Any] | Generator[Any, Any, Any]


def guard_rows(loop: asyncio.AbstractEventLoop) -> None:
    """Guard the tasks of rows in this loop from now on. Our own tasks are unchanged."""
    loop_use.process = os.getpid()
    if loop.get_task_factory() is not _new_task:
        loop.set_task_factory(_new_task)


def is_row_error(exc: BaseException) -> bool:
    """True if the exception would end a process, or a loop, although a row's code raised it."""
    return not isinstance(exc, Exception | asyncio.CancelledError | NodeBlocks)


def as_row_error(exc: BaseException) -> RowError:
    return RowError(text_of(exc) or f"the row's code raised {type(exc).__name__}", kind=type(exc).__name__)


def _new_task(loop: asyncio.AbstractEventLoop, steps: _Steps, **options: Any) -> "asyncio.Task[Any]":
    context = options.get("context")
    scope = current.get() if context is None else context.get(current)
    if scope is not None and asyncio.iscoroutine(steps):
        steps = RowCode(steps, scope, loop)
    task = asyncio.Task(steps, loop=loop, **options)
    if scope is not None and scope.parking is not None and loop is scope.loop:
        scope.parking.tasks.add(task)
    return task


class RowCode(Coroutine[Any, Any, Any]):
    """Wraps a coroutine of a row and converts exceptions that escape; while it has the loop of all rows, `loop_use`
    says so. Closing it raises GeneratorExit in it, which is no error."""

    __slots__ = ("_scope", "_shared_loop", "work")

    def __init__(self, work: Coroutine[Any, Any, Any], scope: RowScope, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self._scope = scope
        self._shared_loop = loop is scope.loop

    def send(self, value: Any) -> Any:
        before = loop_use.running
        self._scope.steps += 1
        if self._shared_loop:
            loop_use.running = self._scope
            loop_use.turns += 1
        try:
            return self.work.send(value)
        except BaseException as exc:
            if is_row_error(exc):
                raise as_row_error(exc) from exc
            raise
        finally:
            if self._shared_loop:
                loop_use.running = before
            if os.getpid() != loop_use.process:  # the row has forked, and runs twice
                os._exit(0)

    def throw(self, *raised: Any) -> Any:
        try:
            return self.work.throw(*raised)
        except BaseException as exc:
            if is_row_error(exc):
                raise as_row_error(exc) from exc
            raise

    def close(self) -> None:
        self.work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # it has the methods that `await` needs

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.send(None)


def run_in_own_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine of a row's to its end in this thread."""
    with asyncio.Runner() as runner:
        guard_rows(runner.get_loop())
        return runner.run(work)
