"""1,000 partitions of 10 rows, beside as many children that do nothing, that only call an activity that does nothing,
and whose activity only writes as many objects as a partition keeps, on a Temporal server of the same kind.

Counts what a partition costs: seconds of CPU, and objects that are kept.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from temporalio.client import Client

from tests.bench.empty_children import OBJECTS, QUEUE
from tests.bench.pipelines import run
from tests.harness.processes import Child
from tests.harness.servers import TemporalServer

PARTITIONS, ROWS, WINDOW = int(os.environ.get("PARTITIONS", "1000")), 10, 20


def main() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder)
        ran = run(folder)
        kept = sum(1 for path in (folder / "out").rglob("*") if path.is_file())
    assert ran.report["partitions"]["published"] == PARTITIONS
    kinds = ("Empty", "OfOneActivity", "OfObjects")
    empty, of_one_activity, of_objects = (seconds_of_children(kind) for kind in kinds)
    return (
        f"{PARTITIONS:,} partitions of {ROWS} rows in {ran.wall_s:.0f} s, {PARTITIONS / ran.wall_s:.0f} a second, "
        f"{ran.cpu_s / PARTITIONS * 1000:.0f} ms of CPU each and {ran.temporal_cpu_s / PARTITIONS * 1000:.0f} of "
        f"Temporal's, {kept / PARTITIONS:.2f} objects kept; {PARTITIONS / empty:.0f} empty children a second: "
        f"{empty / ran.wall_s:.0%} of them; {PARTITIONS / of_one_activity:.0f} children of one empty activity: "
        f"{of_one_activity / ran.wall_s:.0%}; {PARTITIONS / of_objects:.0f} children of {OBJECTS} objects: "
        f"{of_objects / ran.wall_s:.0%} (load {os.getloadavg()[0]:.0f})"
    )


def seconds_of_children(kind: str) -> float:
    """Return the seconds that the children of a type take, by one worker process."""
    with tempfile.TemporaryDirectory() as name, TemporalServer.start(Path(name)) as server:
        worker = Child([sys.executable, "-m", "tests.bench.empty_children", server.address, f"{name}/out"])
        try:
            return asyncio.run(_seconds_of_children(server.address, kind))
        finally:
            worker.kill()


async def _seconds_of_children(address: str, kind: str) -> float:
    client = await Client.connect(address)
    await client.execute_workflow("Parent", args=[kind, WINDOW, WINDOW], id="warm", task_queue=QUEUE)
    began = time.monotonic()
    await client.execute_workflow("Parent", args=[kind, PARTITIONS, WINDOW], id="children", task_queue=QUEUE)
    return time.monotonic() - began


def _write(folder: Path) -> None:
    rows = pl.DataFrame({"id": range(PARTITIONS * ROWS)})
    rows.select(
        "id", text=pl.format("ticket {} about an invoice", "id"), part=pl.format("p{}", pl.col("id") // ROWS)
    ).write_parquet(folder / "t.parquet")
    (folder / "tandem.yaml").write_text(
        "name: bench\nsource: {path: t.parquet, key: [id]}\npartition: {by: column, column: part}\nstages:\n"
        "  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {word: str}}\n"
        f"limits: {{partitions_in_flight: {WINDOW}}}\nsink: {{path: out}}\n"
    )
