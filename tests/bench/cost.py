"""What a run costs beside its model: actions of Temporal, requests to S3 and bytes, by partition and by rows.

Real parts: Temporal's development server, whose histories are counted; SeaweedFS, behind a proxy that counts.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from tests.bench.pipelines import run
from tests.harness.fault_proxy import FaultProxy
from tests.harness.servers import SeaweedS3, TemporalServer

SHAPES = ((50, 10), (4, 20_000))
_E = EventType
# Billable events of a history. A child is counted twice: where it is begun, and as a workflow. Heartbeats are no
# events: an activity that runs for long adds one action each 8 s.
_ACTIONS = {
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: "workflows",
    _E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: "children begun",
    _E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: "activities",
    _E.EVENT_TYPE_TIMER_STARTED: "timers",
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: "signals",
    _E.EVENT_TYPE_MARKER_RECORDED: "markers",
    _E.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: "search attributes",
}


@dataclass(frozen=True)
class Cost:
    """Of one run: actions by kind, requests by method, bytes sent to S3; the longest history in events and bytes."""

    actions: Counter[str]
    requests: dict[str, int]
    sent: int
    events: int
    history_bytes: int

    def line(self, partitions: int, rows: int) -> str:
        requests = ", ".join(f"{count / partitions:.1f} {method}" for method, count in sorted(self.requests.items()))
        return (
            f"{partitions} partitions of {rows:,} rows, for each: {self.actions.total() / partitions:.1f} actions "
            f"({', '.join(f'{count} {kind}' for kind, count in self.actions.most_common())} in all), S3 {requests}, "
            f"{self.sent / partitions / 1e3:.1f} kB sent; the run's history {self.events} events, "
            f"{self.history_bytes / 1e3:.0f} kB"
        )


def main() -> str:
    with tempfile.TemporaryDirectory() as name, SeaweedS3.start(Path(name) / "s3") as s3:
        s3.bucket("cost")
        return f"{'; '.join(_measured(s3, *shape) for shape in SHAPES)} (load {os.getloadavg()[0]:.0f})"


def _measured(s3: SeaweedS3, partitions: int, rows: int) -> str:
    with tempfile.TemporaryDirectory() as name, TemporalServer.start(Path(name) / "temporal") as temporal:
        folder = Path(name)
        _write(folder, partitions, rows)
        with FaultProxy.start(s3.port) as proxy:
            env = {**s3.env(proxy.url), "TEMPORAL_ADDRESS": temporal.address}
            with working(folder, env):
                ran = run(folder, "--yes", env=env)
            stats = proxy.stats()
        assert ran.report["partitions"]["published"] == partitions
        actions, events, size = asyncio.run(_counted(temporal.address))
    return Cost(actions, stats.requests, stats.body_bytes, events, size).line(partitions, rows)


@contextlib.contextmanager
def working(folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Let a worker work for a Temporal of ours."""
    command = [sys.executable, "-m", "pipeline.cli", "worker"]
    worker = subprocess.Popen(command, cwd=folder, env={**os.environ, **env}, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        worker.terminate()
        worker.wait()


async def _counted(address: str) -> tuple[Counter[str], int, int]:
    """Return the actions of all workflows, and events and bytes of the longest history."""
    client = await Client.connect(address)
    actions: Counter[str] = Counter()
    longest, size = 0, 0
    async for events, bytes_ in _histories(client, actions):
        longest, size = max(longest, events), max(size, bytes_)
    return actions, longest, size


async def _histories(client: Client, actions: Counter[str]) -> AsyncIterator[tuple[int, int]]:
    async for one in client.list_workflows():
        events, size = 0, 0
        async for event in client.get_workflow_handle(one.id, run_id=one.run_id).fetch_history_events():
            events, size = events + 1, size + event.ByteSize()
            if (kind := _ACTIONS.get(event.event_type)) is not None:
                actions[kind] += 1
        yield events, size


def _write(folder: Path, partitions: int, rows: int) -> None:
    number = pl.int_range(partitions * rows, eager=True)
    pl.DataFrame({"id": number}).select(
        "id",
        text=pl.format("ticket {} about an invoice that is wrong and a customer who is angry", "id"),
        part=pl.format("p{}", pl.col("id") // rows),
    ).write_parquet(folder / "t.parquet")
    (folder / "tandem.yaml").write_text(
        f"name: cost{partitions}\nsource: {{path: t.parquet, key: [id]}}\npartition: {{by: column, column: part}}\n"
        "stages:\n  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {word: str}}\n"
        f"sink: {{path: 's3://cost/of-{partitions}'}}\n"
    )
