"""Rows under `tier: batch`: run until they have an outcome, or nothing is left to do before a job has answered.

A row is at rest once at least one of its calls is parked, no call, lookup or thread of it is at work outside of parked
calls, and its tasks have taken no step for some passes of the loop. So parallel calls of a row go in one wave. Then its
tasks are cancelled, and what they return or raise is discarded: a parked call is never an answer.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from stages.models.row.parking import RowParked, RowParking
from stages.models.row.scope import RowScope

_QUIET_S = 0.02
_PASSES = 5  # from a resolved future to the step of the task that awaits it through others
_ELSEWHERE_S = 2.0  # that a row is waited for which seems to wait for something of its own: a timer, a connection
_RESTLESS_S = 60.0  # and one whose code takes steps all the time, since its last call was parked
_ENDS_S, _ENDS_AGAIN_S = 1.0, 0.05  # that cancelled code has to end
_CANCELS = 40
# Code that only waits for other code of the row. Anything else that awaits a plain future may have work outside.
_WAITS = ("asyncio.", "langgraph.", "langchain_core.", "stages.", "concurrent.")


async def result_or_parked(work: Coroutine[Any, Any, Any], scope: RowScope, parking: RowParking) -> Any:
    """Return the result of a row's code, or raise what it raises. Raises RowParked with its calls if they wait for a
    job, whatever the code makes of that, and RowError for a row that asks something else each time."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, parking.begun}, return_when=asyncio.FIRST_COMPLETED)
        if parking.begun.done():
            await _until_at_rest(task, scope, parking)
    except BaseException:
        await _end(task, parking)
        raise
    if not parking.calls:
        return await task
    scope.close()
    await _end(task, parking)
    if scope.stop is not None:
        raise scope.stop
    parking.refuse_other_calls()
    raise RowParked(tuple(parking.calls.values()))


async def _until_at_rest(task: "asyncio.Task[Any]", scope: RowScope, parking: RowParking) -> None:
    """Wait until the row is at rest, or its code has ended."""
    seen, quiet_since = (-1, -1), time.monotonic()
    calls, last_call = 0, quiet_since
    while not task.done():
        await asyncio.wait({task}, timeout=_QUIET_S)
        for _ in range(_PASSES):
            await asyncio.sleep(0)
        now = time.monotonic()
        if len(parking.calls) != calls:
            calls, last_call = len(parking.calls), now
        if (scope.steps, parking.changes) != seen:
            seen, quiet_since = (scope.steps, parking.changes), now
            if now - last_call < _RESTLESS_S:
                continue
        if parking.at_work or parking.waiting_threads < scope.threads:
            continue
        if now - quiet_since >= _ELSEWHERE_S or now - last_call >= _RESTLESS_S or not _waits_elsewhere(parking):
            return


def _waits_elsewhere(parking: RowParking) -> bool:
    """True if code of the row seems to wait for something that is neither a parked call nor other code of the row."""
    return any(_is_elsewhere(task) for task in tuple(parking.tasks) if not task.done())


def _is_elsewhere(task: "asyncio.Task[Any]") -> bool:
    awaited: Any = getattr(task, "_fut_waiter", None)
    if awaited is None or isinstance(awaited, asyncio.Task) or type(awaited) is not asyncio.Future:
        return False  # it is about to run, or waits for other tasks
    module, function = _innermost(task.get_coro())
    if module == "asyncio.tasks" and function == "sleep":
        return True
    return not module.startswith(_WAITS)


def _innermost(code: Any) -> tuple[str, str]:
    """Return the module and the name of the function that awaits, at the end of a chain of coroutines."""
    module = function = ""
    while code is not None:
        code = getattr(code, "work", code)
        frame = getattr(code, "cr_frame", None) or getattr(code, "gi_frame", None) or getattr(code, "ag_frame", None)
        if frame is not None:
            module, function = str(frame.f_globals.get("__name__", "")), frame.f_code.co_name
        code = getattr(code, "cr_await", None) or getattr(code, "gi_yieldfrom", None) or getattr(code, "ag_await", None)
    return module, function


async def _end(task: "asyncio.Task[Any]", parking: RowParking) -> None:
    """Cancel the row's code, again as long as it goes on: it may catch everything and try some times more. What still
    goes on after that gets no answers."""
    for number in range(_CANCELS):
        left = {one for one in (task, *parking.tasks) if not one.done()}
        if not left:
            break
        for one in left:
            one.cancel()
        await asyncio.wait(left, timeout=_ENDS_S if number == 0 else _ENDS_AGAIN_S)
    for one in (task, *parking.tasks):
        if one.done() and not one.cancelled():
            one.exception()  # retrieved: nobody else asks for it
