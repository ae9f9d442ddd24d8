"""1,000 partitions of 10 rows, beside as many children that do nothing on a Temporal server of the same kind.

Counts what a partition costs: seconds of CPU, objects that are kept, events of its history.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from tests.bench.pipelines import run
from tests.harness.processes import Child
from tests.harness.servers import TemporalServer

PARTITIONS, ROWS, WINDOW = 1_000, 10, 20
QUEUE = "empty-children"


@workflow.defn
class Empty:
    @workflow.run
    async def run(self) -> None:
        return


@workflow.defn
class Parent:
    """Starts children, so many at once."""

    @workflow.run
    async def run(self, children: int, window: int) -> None:
        room = asyncio.Semaphore(window)

        async def one(number: int) -> None:
            async with room:
                await workflow.execute_child_workflow(Empty.run, id=f"{workflow.info().workflow_id}-{number}")

        await asyncio.gather(*map(one, range(children)))


async def _work(address: str) -> None:
    client = await Client.connect(address)
    async with Worker(client, task_queue=QUEUE, workflows=[Parent, Empty]):
        await asyncio.Event().wait()


async def _empty(address: str) -> float:
    client = await Client.connect(address)
    await client.execute_workflow(Parent.run, args=[WINDOW, WINDOW], id="warm", task_queue=QUEUE)
    began = time.monotonic()
    await client.execute_workflow(Parent.run, args=[PARTITIONS, WINDOW], id="empty", task_queue=QUEUE)
    return time.monotonic() - began


def empty_children() -> float:
    """Return the seconds that the children take, by one worker process."""
    with tempfile.TemporaryDirectory() as name, TemporalServer.start(Path(name)) as server:
        worker = Child([sys.executable, "-m", "tests.bench.partitions", server.address])
        try:
            return asyncio.run(_empty(server.address))
        finally:
            worker.kill()


def main() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = pl.DataFrame({"id": range(PARTITIONS * ROWS)})
        rows.select(
            "id", text=pl.format("ticket {} about an invoice", "id"), part=pl.format("p{}", pl.col("id") // ROWS)
        ).write_parquet(folder / "t.parquet")
        (folder / "tandem.yaml").write_text(
            "name: bench\nsource: {path: t.parquet, key: [id]}\npartition: {by: column, column: part}\n"
            "stages:\n"
            "  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {word: str}}\n"
            f"limits: {{partitions_in_flight: {WINDOW}}}\nsink: {{path: out}}\n"
        )
        ran = run(folder)
        kept = sum(1 for path in (folder / "out").rglob("*") if path.is_file())
    empty = empty_children()
    return (
        f"{PARTITIONS:,} partitions of {ROWS} rows in {ran.wall_s:.0f} s, {PARTITIONS / ran.wall_s:.0f} a second, "
        f"{ran.cpu_s / PARTITIONS * 1000:.0f} ms of CPU each and {ran.temporal_cpu_s / PARTITIONS * 1000:.0f} of "
        f"Temporal's, {kept / PARTITIONS:.2f} objects kept; empty children: {PARTITIONS / empty:.0f} a second: "
        f"{empty / ran.wall_s:.0%} (load {os.getloadavg()[0]:.0f})"
    )


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
