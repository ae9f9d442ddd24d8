"""Following a run: its end is seen when it comes, whatever the follower was doing."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any, cast

from temporalio.client import WorkflowExecutionStatus

from pipeline.client.follow import follow
from pipeline.client.run import Run
from pipeline.stores import MemoryStore
from schemas.messages.run import Progress, Totals

PROGRESS = Progress(
    state="running", detail="enriching", totals=Totals(), rows_total=1, rows_done=0, rejected=0, running=()
)


class Handle:
    """The handle of a run that ends when it is told to; `lost`: its result never comes, as the server was away."""

    def __init__(self, *, lost: bool = False) -> None:
        self.ended = asyncio.Event()
        self.looks = 0
        self._lost = lost

    async def result(self) -> None:
        if self._lost:
            raise ConnectionError("away")
        await self.ended.wait()

    async def describe(self) -> Any:
        self.looks += 1
        status = WorkflowExecutionStatus.COMPLETED if self.ended.is_set() else WorkflowExecutionStatus.RUNNING
        return SimpleNamespace(status=status)

    async def query(self, *_: Any, **__: Any) -> Progress:
        return PROGRESS


def a_run(handle: Handle) -> Run:
    return Run(cast(Any, None), MemoryStore(uuid.uuid4().hex), cast(Any, handle), "started")


async def test_an_end_while_the_follower_shows_something_is_not_waited_for() -> None:
    handle = Handle()
    async with asyncio.timeout(20):
        async for _ in follow(a_run(handle), every_s=3_600):
            handle.ended.set()
            await asyncio.sleep(0.01)  # the result is there before the follower looks again
    assert handle.looks == 2


async def test_a_result_that_never_comes_is_replaced_by_looks() -> None:
    handle, seen = Handle(lost=True), 0
    async for _ in follow(a_run(handle), every_s=0.01):
        seen += 1
        if seen == 5:
            handle.ended.set()
    assert handle.looks == seen == 6
