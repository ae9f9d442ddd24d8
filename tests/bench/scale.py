"""Very many partitions: 10,000 are run, and a million planned, with what their histories would hold.

`PARTITIONS` sets how many are run, `PLANNED` how many are planned; a planned one stands for 1,000 rows.
"""

import asyncio
import datetime as dt
import os
import resource
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.client import Client

from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.planning import builder
from pipeline.runs import plan_pages, requests
from schemas.messages.base import RunRef
from schemas.plan import Selection
from tests.bench.cost import working
from tests.bench.pipelines import run
from tests.harness.servers import TemporalServer

ROWS_OF_ONE = 1_000
MOST_EVENTS, MOST_BYTES, MOST_PAYLOAD = 10_000, 5_000_000, 64 * 1024
_SUGGESTED = 4_096  # events, after which a server suggests that a history is continued as a new one


@dataclass
class Histories:
    """The largest of each, over all workflows, and the events of those of the run itself, together."""

    workflows: int = 0
    events: int = 0
    bytes: int = 0
    payload: int = 0
    of_run: int = 0

    def take(self, id: str, events: int, size: int, payload: int) -> None:
        self.workflows += 1
        self.of_run += events if "/run/" in id else 0
        self.events, self.bytes = max(self.events, events), max(self.bytes, size)
        self.payload = max(self.payload, payload)


def main() -> str:
    partitions, planned = int(os.environ.get("PARTITIONS", "10000")), int(os.environ.get("PLANNED", "1000000"))
    ran, events_each = _run(partitions)
    return f"{ran}; {_planned(planned, events_each)} (load {os.getloadavg()[0]:.0f})"


def _run(partitions: int) -> tuple[str, float]:
    """Run them. Returns what was found, and the events of the run's own histories for one partition."""
    with tempfile.TemporaryDirectory() as name, TemporalServer.start(Path(name) / "temporal") as temporal:
        folder = Path(name)
        _write(folder, partitions)
        env = {"TEMPORAL_ADDRESS": temporal.address}
        with working(folder, env):
            ran = run(folder, "--yes", env=env)
        assert ran.report["partitions"]["published"] == partitions
        found = asyncio.run(_histories(temporal.address))
    assert found.events <= MOST_EVENTS, found
    assert found.bytes <= MOST_BYTES, found
    assert found.payload <= MOST_PAYLOAD, found
    line = (
        f"{partitions:,} partitions run in {ran.wall_s:.0f} s; the longest of {found.workflows:,} histories has "
        f"{found.events:,} events and {found.bytes / 1e6:.2f} MB, the largest payload {found.payload / 1024:.1f} KiB"
    )
    return line, found.of_run / partitions


async def _histories(address: str) -> Histories:
    client, found = await Client.connect(address), Histories()
    async for one in client.list_workflows():
        events, size, payload = 0, 0, 0
        async for event in client.get_workflow_handle(one.id, run_id=one.run_id).fetch_history_events():
            events, size = events + 1, size + event.ByteSize()
            payload = max([payload, *_payloads(event)])
        found.take(one.id, events, size, payload)
    return found


def _payloads(message: Message) -> list[int]:
    """Return the bytes of every payload in a message."""
    if isinstance(message, Payload):
        return [len(message.data)]
    found: list[int] = []
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else [value]:
                found += _payloads(inner)
    return found


def _planned(partitions: int, events_each: float) -> str:
    """Plan with the real planner, and add up what the run's workflow would hold: page after page, until its server
    suggests a new history."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, partitions)
        began = time.monotonic()
        ready = preflight(*read_spec(folder / "tandem.yaml"))
        entries = ready.job.snapshot.entries.with_columns(pl.col("rows") * ROWS_OF_ONE)
        job = replace(ready.job, snapshot=replace(ready.job.snapshot, entries=entries))
        request = requests.write_request(ready.store, job.spec, folder, Selection(), "run-1")
        chosen = builder.decisions(job, ready.store, Selection(), dt.datetime.now(dt.UTC))
        ref = RunRef(pipeline=job.spec.name, run="run-1", sink=ready.store.uri)
        plan = builder.write_plan(ready.store, ref, request, job, chosen)
        took = time.monotonic() - began
        pages = [len(plan_pages.load_page(ready.store, plan.key, number).partitions) for number in range(plan.pages)]
    assert (plan.to_run, plan.rows, sum(pages)) == (partitions, partitions * ROWS_OF_ONE, partitions)
    longest, histories, held = 0.0, 1, 0.0
    for page in pages:
        if held > _SUGGESTED:
            histories, held = histories + 1, 0.0
        held += page * events_each
        longest = max(longest, held)
    assert longest <= MOST_EVENTS, longest
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return (
        f"{partitions:,} partitions of {ROWS_OF_ONE:,} rows planned in {took:.0f} s and at most {peak:.0f} MB, "
        f"{len(pages):,} pages: {histories:,} histories of the run, the longest of {longest:,.0f} events"
    )


def _write(folder: Path, partitions: int) -> None:
    number = pl.int_range(partitions, eager=True)
    pl.DataFrame({"id": number}).select(
        "id", text=pl.format("ticket {} about an invoice", "id"), part=pl.format("p{}", "id")
    ).write_parquet(folder / "t.parquet")
    (folder / "tandem.yaml").write_text(
        "name: scale\nsource: {path: t.parquet, key: [id]}\npartition: {by: column, column: part}\nstages:\n"
        "  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {word: str}}\n"
        "limits: {partitions_in_flight: 20}\nsink: {path: out}\n"
    )


if __name__ == "__main__":
    print(main())
