"""A cancel that comes in the moment in which a wait with a time ends is not lost, as it is in Python 3.11."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import timedelta

from temporalio import workflow
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import stop_if_cancel_was_lost
    from tests.pipeline.fakes import skipping_time


@workflow.defn
class Cancels:
    """Cancels a task as soon as what the task waits for is there."""

    def __init__(self) -> None:
        self._there = False

    @workflow.run
    async def run(self) -> str:
        waiting = asyncio.create_task(self._wait())
        await workflow.wait_condition(lambda: self._there)
        waiting.cancel()
        try:
            return await waiting
        except asyncio.CancelledError:
            return "cancelled"

    async def _wait(self) -> str:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._there, timeout=timedelta(hours=1))
        stop_if_cancel_was_lost()
        return "went on"

    @workflow.signal
    def come(self) -> None:
        self._there = True


async def test_a_cancel_that_comes_as_a_wait_ends_is_not_lost() -> None:
    async with skipping_time() as env, Worker(env.client, task_queue="cancels", workflows=[Cancels]):
        handle = await env.client.start_workflow(Cancels.run, id=uuid.uuid4().hex, task_queue="cancels")
        with env.auto_time_skipping_disabled():
            await handle.signal(Cancels.come)
            assert await handle.result() == "cancelled"
