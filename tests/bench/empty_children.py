"""A worker of workflows that do nothing, or only call an activity that does nothing, or writes as many small objects
as a partition keeps: what a Temporal server, and a folder, give at most.

`python -m tests.bench.empty_children ADDRESS FOLDER` works for ever.
"""

import asyncio
import datetime as dt
import sys
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

QUEUE = "empty-children"
OBJECTS, _BYTES = 5, b"x" * 2_000


@workflow.defn
class Empty:
    @workflow.run
    async def run(self) -> None:
        return


@activity.defn
async def nothing() -> None:
    return


@workflow.defn
class OfOneActivity:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(nothing, start_to_close_timeout=dt.timedelta(minutes=1))


@activity.defn
async def objects() -> None:
    """Write the objects that a small partition keeps, as the sink's store does."""
    from pipeline.stores import LocalStore  # here, as the sandbox of workflows would import it for each of them

    def write(store: LocalStore, partition: str) -> None:
        for number in range(OBJECTS):
            store.put(f"{number}/{partition}/object", _BYTES)

    await asyncio.to_thread(write, LocalStore(Path(sys.argv[2])), activity.info().workflow_id or "")


@workflow.defn
class OfObjects:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(objects, start_to_close_timeout=dt.timedelta(minutes=1))


@workflow.defn
class Parent:
    """Starts children of a type, so many at once."""

    @workflow.run
    async def run(self, child: str, children: int, window: int) -> None:
        room = asyncio.Semaphore(window)

        async def one(number: int) -> None:
            async with room:
                await workflow.execute_child_workflow(child, id=f"{workflow.info().workflow_id}-{number}")

        await asyncio.gather(*map(one, range(children)))


async def _work(address: str) -> None:
    client = await Client.connect(address)
    kinds = [Parent, Empty, OfOneActivity, OfObjects]
    async with Worker(client, task_queue=QUEUE, workflows=kinds, activities=[nothing, objects]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
