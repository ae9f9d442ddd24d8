"""A worker of workflows that do nothing, or only call an activity that does nothing: what a Temporal server gives at
most. `python -m tests.bench.empty_children ADDRESS` works for ever."""

import asyncio
import datetime as dt
import sys

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

QUEUE = "empty-children"


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
    async with Worker(client, task_queue=QUEUE, workflows=[Parent, Empty, OfOneActivity], activities=[nothing]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
