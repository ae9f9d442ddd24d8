"""The workflows, in the real sandbox on a real server, with activities that do nothing: what they ask for, and when."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import pkgutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

import pipeline.workflows
from pipeline.workflows.partition import PartitionWorkflow
from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.messages.base import Concurrency
from schemas.messages.batch import BatchRequest, BatchResult, Spent
from schemas.messages.partition import CloseRequest, Opened, OpenRequest, PublishRequest
from tests.harness.processes import Child
from tests.harness.servers import TemporalServer, free_ports
from tests.pipeline.fakes import Fakes, at_work, beat_until, ended, failed, planned, skipping_time, until

A, B, C, D = "day=2026-11-01", "day=2026-11-02", "day=2026-11-03", "day=2026-11-04"
HEAVY = ("polars", "pyarrow", "boto3", "langgraph", "langchain", "langchain_core", "numpy")


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)


# What they may import -----------------------------------------------------------------------------------------------


def test_workflow_modules_load_nothing_heavy() -> None:
    """The sandbox imports them anew for each worker, and data work has no place in them."""
    code = f"""
import importlib, pkgutil, sys, pipeline.workflows
for module in pkgutil.iter_modules(pipeline.workflows.__path__, "pipeline.workflows."):
    importlib.import_module(module.name)
print([name for name in {HEAVY!r} if name in sys.modules], "pipeline.workflows.run" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.strip() == "[] True"


def test_workflow_modules_hold_no_state() -> None:
    """They run outside the sandbox, so that what a module or a class holds is shared by all workflows of a process."""
    found = []
    for module in pkgutil.walk_packages(pipeline.workflows.__path__, "pipeline.workflows."):
        loaded = importlib.import_module(module.name)
        classes = [one for one in vars(loaded).values() if isinstance(one, type) and one.__module__ == module.name]
        for holder in (loaded, *classes):
            found += [
                f"{module.name}.{name}" for name, value in vars(holder).items()
                if isinstance(value, list | dict | set | bytearray) and not name.startswith("__")
            ]  # fmt: skip
    assert found == []


# A run and its partitions -------------------------------------------------------------------------------------------


async def test_a_run_publishes_every_partition_that_its_plan_says(skipping: WorkflowEnvironment) -> None:
    fakes = Fakes([planned(A, B), [*planned(C), *planned(D, run=False)]])
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "completed"
    assert {said.partition for said in fakes.of("publish")} == {A, B, C}
    assert [said.receipts for said in fakes.of("publish", A)] == [("receipt-0", "receipt-1")]
    totals = result.totals
    assert (totals.total, totals.published, totals.unchanged, totals.not_run) == (4, 3, 1, 0)
    assert (totals.counts.rows_in, totals.usage.calls) == (30, 30)
    assert not fakes.of("close")


async def test_every_activity_has_to_beat(client: Client) -> None:
    """A killed worker is missed by its silence: what cannot be missed so is waited for until its time is over."""
    fakes = Fakes([planned(A)])
    async with at_work(client, fakes) as bench:
        await ended(await bench.start())
        run = ids.run_workflow_id(bench.ref.pipeline, bench.ref.sink, "run-1")
        partition = ids.partition_workflow_id(bench.ref.pipeline, bench.ref.sink, A)
        found = {}
        for workflow_id in (run, partition):
            async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
                if event.HasField("activity_task_scheduled_event_attributes"):
                    asked = event.activity_task_scheduled_event_attributes
                    found[asked.activity_type.name] = asked.heartbeat_timeout.ToTimedelta()
    assert found.keys() >= {"plan", "read_page", "open", "enrich_batch", "publish", "finalise"}
    assert {name for name, beat in found.items() if not dt.timedelta(0) < beat <= dt.timedelta(seconds=10)} == set()


async def test_one_failed_partition_never_fails_its_siblings(skipping: WorkflowEnvironment) -> None:
    async def broken(request: OpenRequest, nth: int) -> None:
        raise failed("InputChanged", "the source moved")

    fakes = Fakes([planned(A, B, C)], on={f"open:{B}": broken})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "failed"
    assert (result.totals.published, result.totals.failed) == (2, 1)
    (finalise,) = fakes.of("finalise")
    assert [(f.partition, f.error, f.message) for f in finalise.failures] == [(B, "InputChanged", "the source moved")]
    (close,) = fakes.of("close")
    assert (close.outcome, close.fence) == ("failed", "")


@pytest.mark.parametrize("batch", [0, 3, 7])
async def test_a_failed_batch_fails_its_partition_with_its_own_error(batch: int) -> None:
    """Also where it ends while the window is full, when nobody looks at it just then."""

    async def broken(request: BatchRequest, nth: int) -> None:
        if request.batch == batch:
            raise failed("FatalModelError", "no key")
        await asyncio.sleep(0.2)

    fakes = Fakes([planned(A)], batches=8, windows=Concurrency(partitions=1, batches=2), on={"enrich_batch": broken})
    async with skipping_time() as skipping, at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    (finalise,) = fakes.of("finalise")
    assert [(f.error, f.message) for f in finalise.failures] == [("FatalModelError", "no key")]
    assert result.stop is not None
    assert not fakes.of("publish")
    assert len(fakes.of("enrich_batch")) <= batch + 2, "no batch begins after one has failed"


async def test_a_fatal_model_error_stops_the_rest_as_not_run(client: Client) -> None:
    never = asyncio.Event()

    async def fatal(request: BatchRequest, nth: int) -> None:
        if request.partition == A:
            raise failed("FatalModelError", "no key")
        await beat_until(never)

    fakes = Fakes(
        [planned(A, B, C, D), planned("day=2026-11-05", "day=2026-11-06")],
        windows=Concurrency(partitions=2), on={"enrich_batch": fatal},
    )  # fmt: skip
    async with at_work(client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "failed"
    assert result.stop is not None
    assert (result.stop.partition, result.stop.error) == (A, "FatalModelError")
    totals = result.totals
    assert (totals.failed, totals.cancelled, totals.not_run, totals.unchanged) == (1, 1, 4, 0)
    assert {said.partition for said in fakes.of("open")} == {A, B}


async def test_a_plan_that_fails_stops_the_run_with_its_sentence(skipping: WorkflowEnvironment) -> None:
    async def broken(request: Any, nth: int) -> None:
        raise failed("SourceError", "no such file")

    fakes = Fakes([planned(A)], on={"plan": broken})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert (result.state, result.stop and result.stop.error) == ("failed", "SourceError")


async def test_windows_are_never_exceeded(skipping: WorkflowEnvironment) -> None:
    async def slow(request: BatchRequest, nth: int) -> None:
        await asyncio.sleep(0.05)

    keys = [f"block={n:06d}" for n in range(7)]
    fakes = Fakes([planned(*keys)], batches=6, windows=Concurrency(partitions=3, batches=2), on={"enrich_batch": slow})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.totals.published == 7
    assert fakes.most["enrich_batch"] <= 6
    assert max(fakes.most[f"enrich_batch:{key}"] for key in keys) == 2


# Waits are results --------------------------------------------------------------------------------------------------


async def test_a_wait_of_an_hour_is_slept_in_temporal_and_is_no_attempt(skipping: WorkflowEnvironment) -> None:
    told: list[dt.datetime] = []

    async def waits(request: BatchRequest, nth: int) -> BatchResult | None:
        if nth > 1:
            return None
        told.append(await skipping.get_current_time() + dt.timedelta(hours=1))
        return BatchResult(state="waiting", until=told[0], reason="the provider asks for a pause")

    fakes = Fakes([planned(A)], batches=1, on={"enrich_batch": waits})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "completed"
    times = [when for name, when in fakes.at if name == "enrich_batch"]
    assert len(times) == 2
    assert times[1] >= told[0]


async def test_a_batch_that_is_handed_back_is_given_out_again(skipping: WorkflowEnvironment) -> None:
    async def drains(request: BatchRequest, nth: int) -> BatchResult | None:
        return BatchResult(state="handed_back") if nth <= 3 else None

    fakes = Fakes([planned(A)], batches=2, on={"enrich_batch": drains})
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).state == "completed"
    assert len(fakes.of("enrich_batch")) == 8


async def test_waiting_for_a_day_takes_few_events(skipping: WorkflowEnvironment) -> None:
    """A worker that waits for the planned code says so every ten seconds; the history must not fill with it."""
    begun = await skipping.get_current_time()

    async def waits(request: BatchRequest, nth: int) -> BatchResult | None:
        now = await skipping.get_current_time()
        if now - begun > dt.timedelta(hours=6):
            return None
        return BatchResult(state="waiting", until=now + dt.timedelta(seconds=10), reason="other code")

    fakes = Fakes([planned(A)], batches=1, on={"enrich_batch": waits})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
        assert result.state == "completed"
    assert len(fakes.of("enrich_batch")) < 6 * 60 + 20


# Lost commits -------------------------------------------------------------------------------------------------------


async def test_a_lost_commit_is_opened_once_more_and_then_named(skipping: WorkflowEnvironment) -> None:
    async def lost(request: PublishRequest, nth: int) -> None:
        raise failed("CommitConflict", f"run 'other' won, {nth}")

    async def opened(request: OpenRequest, nth: int) -> Opened:
        return Opened(opened=f"open-{nth}", base=nth + 6, batches=1, rows=10)

    fakes = Fakes([planned(A)], on={"publish": lost, "open": opened})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.totals.failed == 1
    assert [said.lost_to for said in fakes.of("open")] == [None, 7]
    assert [said.opened for said in fakes.of("publish")] == ["open-1", "open-2"]
    (finalise,) = fakes.of("finalise")
    assert [(f.error, f.message) for f in finalise.failures] == [("CommitConflict", "run 'other' won, 2")]


async def test_what_is_up_to_date_by_now_is_unchanged_and_said_so(skipping: WorkflowEnvironment) -> None:
    """An earlier attempt of the run may have left another outcome of it."""

    async def opened(request: OpenRequest, nth: int) -> Opened:
        return Opened(opened="", base=3, batches=0, rows=0, up_to_date=True)

    fakes = Fakes([planned(A)], on={"open": opened})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert (result.state, result.totals.unchanged, result.totals.published) == ("completed", 1, 0)
    assert [(said.outcome, said.fence) for said in fakes.of("close")] == [("unchanged", "")]


async def test_a_partition_without_rows_is_published(skipping: WorkflowEnvironment) -> None:
    async def opened(request: OpenRequest, nth: int) -> Opened:
        return Opened(opened="open", base=0, batches=0, rows=0)

    fakes = Fakes([planned(A)], on={"open": opened})
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).totals.published == 1
    assert fakes.of("publish")[0].receipts == ()


# Cancelling ---------------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_fences_what_is_open_and_counts_the_rest_as_not_run(client: Client) -> None:
    never = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(never)

    fakes = Fakes(
        [[*planned(A, B, C), *planned("day=2026-10-01", run=False)], planned(D)],
        batches=6, windows=Concurrency(partitions=2, batches=2), on={"enrich_batch": slow},
    )  # fmt: skip
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: fakes.running["enrich_batch"] == 4)
        await run.cancel()
        result = await ended(run)
        assert result.state == "cancelled"
        assert not [found for found in await bench.still_open() if bench.ref.sink in found]
    closes: list[CloseRequest] = fakes.of("close")
    assert {(said.partition, said.outcome) for said in closes} == {(A, "cancelled"), (B, "cancelled")}
    assert all(len(said.fence) == 32 for said in closes)
    totals = result.totals
    assert (totals.total, totals.cancelled, totals.not_run, totals.unchanged) == (5, 2, 2, 1)
    assert len(fakes.of("enrich_batch")) == 4


async def test_no_batch_is_at_work_when_its_partition_is_closed(client: Client) -> None:
    """What a batch flushes on its way out is in the journal before the usage is summed, and no call comes after."""
    never = asyncio.Event()
    at_close: list[int] = []

    async def slow(request: BatchRequest, nth: int) -> None:
        try:
            await beat_until(never)
        finally:
            await asyncio.sleep(0.5)

    async def close(request: CloseRequest, nth: int) -> None:
        at_close.append(fakes.running["enrich_batch"])

    fakes = Fakes([planned(A)], batches=3, windows=Concurrency(batches=3), on={"enrich_batch": slow, "close": close})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: fakes.running["enrich_batch"] == 3)
        await run.cancel()
        assert (await ended(run)).state == "cancelled"
    assert at_close == [0]


async def test_a_failed_batch_stops_the_others_before_the_partition_is_closed(client: Client) -> None:
    never = asyncio.Event()
    at_close: list[int] = []

    async def work(request: BatchRequest, nth: int) -> None:
        if request.batch == 0:
            await until(lambda: fakes.running["enrich_batch"] == 3)
            raise failed("FatalModelError")
        try:
            await beat_until(never)
        finally:
            await asyncio.sleep(0.3)

    async def close(request: CloseRequest, nth: int) -> None:
        at_close.append(fakes.running["enrich_batch"])

    fakes = Fakes([planned(A)], batches=3, windows=Concurrency(batches=3), on={"enrich_batch": work, "close": close})
    async with at_work(client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.stop is not None
    assert at_close == [0]


@pytest.mark.parametrize("outcome", ["published", "conflict"])
async def test_a_publish_in_flight_runs_to_its_end_when_the_run_is_cancelled(client: Client, outcome: str) -> None:
    """A thread that uploads and commits cannot be stopped half-way: it is waited for, so that what it did is known."""
    go, over, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(request: PublishRequest, nth: int) -> None:
        try:
            await beat_until(go)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        over.set()
        if outcome == "conflict":
            raise failed("CommitConflict", "run 'other' won")

    fakes = Fakes([planned(A, B)], windows=Concurrency(partitions=1), on={"publish": slow})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: fakes.running["publish"] == 1)
        await run.cancel()
        await asyncio.sleep(0.7)
        go.set()
        result = await ended(run)
    assert over.is_set()
    assert not cancelled.is_set()
    assert result.state == "cancelled"
    assert result.totals.not_run == 1
    if outcome == "published":
        assert result.totals.published == 1
        assert not fakes.of("close")
    else:
        assert result.totals.cancelled == 1
        assert [len(said.fence) for said in fakes.of("close")] == [32]
        assert len(fakes.of("open")) == 1, "a cancelled run does not build on the winner"


@pytest.mark.parametrize("when", ["plan", "read_page", "open", "waiting"])
async def test_a_cancel_at_any_moment_ends_in_a_report(client: Client, when: str) -> None:
    never, waiting = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, nth: int) -> None:
        await beat_until(never)

    async def waits(request: BatchRequest, nth: int) -> BatchResult:
        waiting.set()
        return BatchResult(state="waiting", until=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), reason="x")

    fakes = Fakes([planned(A)], batches=1, on={"enrich_batch": waits} if when == "waiting" else {when: slow})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(waiting.is_set if when == "waiting" else lambda: fakes.running[when] == 1)
        await asyncio.sleep(0.2)
        await run.cancel()
        async with asyncio.timeout(15):
            result = await ended(run)
    assert result.state == "cancelled"
    assert len(fakes.of("finalise")) == 1
    fenced = [len(said.fence) for said in fakes.of("close")]
    assert fenced == ([32] if when in ("open", "waiting") else [])


# Pause and resume ---------------------------------------------------------------------------------------------------


async def test_a_paused_run_begins_nothing_until_it_is_resumed(client: Client) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    fakes = Fakes([planned(A, B), planned(C)], batches=2, windows=Concurrency(partitions=1, batches=1),
                  on={"enrich_batch": slow})  # fmt: skip
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: fakes.running["enrich_batch"] == 1)
        await run.signal(RunWorkflow.pause, "lunch")
        async with asyncio.timeout(10):
            while (await run.query(RunWorkflow.progress)).state != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await run.query(RunWorkflow.progress)).detail == "lunch"
        await asyncio.sleep(0.5)
        go.set()
        await asyncio.sleep(0.7)
        assert len(fakes.of("enrich_batch")) == 1
        await run.signal(RunWorkflow.resume)
        assert (await ended(run)).totals.published == 3


async def test_pausing_touches_no_partition_of_another_run_and_survives_one_that_ends(client: Client) -> None:
    """The held partition belongs to somebody else, and a signal may meet a child that has just ended."""
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    fakes = Fakes([planned(A, B)], batches=2, windows=Concurrency(batches=1), on={f"enrich_batch:{A}": slow})
    async with at_work(client, fakes) as bench:
        other = await bench.partition(A, Concurrency(batches=1))
        await until(lambda: fakes.running["enrich_batch"] == 1)
        run = await bench.start()
        await until(lambda: bool(fakes.of("publish", B)))
        await run.signal(RunWorkflow.pause, "lunch")
        await asyncio.sleep(0.5)
        go.set()
        assert (await ended(other)).outcome == "published"
        await run.signal(RunWorkflow.resume)
        result = await ended(run)
    assert (result.state, result.totals.published) == ("completed", 2)


# Partitions that another run holds -----------------------------------------------------------------------------------


async def test_a_held_partition_is_waited_for_outside_the_window(client: Client) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    fakes = Fakes([planned(A, B, C)], windows=Concurrency(partitions=1), on={f"enrich_batch:{A}": slow})
    async with at_work(client, fakes) as bench:
        other = await bench.partition(A)
        await until(lambda: fakes.running["enrich_batch"] > 0)
        run = await bench.start()
        await until(lambda: bool(fakes.of("publish", B) and fakes.of("publish", C)))
        assert A in (await run.query(RunWorkflow.progress)).running
        go.set()
        await ended(other)
        result = await ended(run)
    assert result.totals.published == 3
    assert len(fakes.of("open", A)) == 2, "it decides again whether anything is left to do"


async def test_a_cancelled_run_leaves_a_held_partition_to_its_holder(client: Client) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    fakes = Fakes([planned(A)], on={"enrich_batch": slow})
    async with at_work(client, fakes) as bench:
        other = await bench.partition(A)
        await until(lambda: fakes.running["enrich_batch"] > 0)
        run = await bench.start()
        await until(lambda: bool(fakes.of("read_page")))
        await asyncio.sleep(0.5)
        await run.cancel()
        result = await ended(run)
        assert (result.state, result.totals.not_run) == ("cancelled", 1)
        assert not fakes.of("close")
        go.set()
        assert (await ended(other)).outcome == "published"


# Long runs ----------------------------------------------------------------------------------------------------------


@contextmanager
def short_histories(folder: Path) -> Iterator[str]:
    """The address of a server that suggests continuing as new after some tens of events."""
    (port,) = free_ports(1)
    binary = Path(sys.executable).parent / "temporal"
    options = ["--ip=127.0.0.1", f"--port={port}", "--headless", "--log-level=error"]
    suggest = "--dynamic-config-value=limit.historyCount.suggestContinueAsNew=40"
    child = Child([str(binary), "server", "start-dev", *options, suggest], log=folder / "temporal.log")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        child.stop()


async def connected(address: str) -> Client:
    async with asyncio.timeout(30):
        while True:
            try:
                return await Client.connect(address, data_converter=pydantic_data_converter)
            except RuntimeError:
                await asyncio.sleep(0.1)


async def test_a_run_that_continues_as_new_keeps_its_totals_its_failures_and_its_pause(
    tmp_path: Path,
) -> None:
    async def some_fail(request: OpenRequest, nth: int) -> None:
        if request.partition.endswith("3"):
            raise failed("InputChanged", request.partition)

    async def last_of_page(request: PublishRequest, nth: int) -> None:
        if request.partition == "block=07":
            await run.signal(RunWorkflow.pause, "lunch")
            await asyncio.sleep(0.5)

    keys = [f"block={n:02d}" for n in range(24)]
    pages = [planned(*keys[at : at + 4]) for at in range(0, 24, 4)]
    pages[-1] = [*pages[-1], *planned("block=99", run=False)]
    fakes = Fakes(pages, batches=1, windows=Concurrency(partitions=2), on={"open": some_fail, "publish": last_of_page})
    with short_histories(tmp_path) as address:
        client = await connected(address)
        async with at_work(client, fakes) as bench:
            run = await bench.start()
            await until(lambda: bool(fakes.of("publish", "block=07")))
            await asyncio.sleep(1.5)
            assert len(fakes.of("open")) == 8, "the pause holds, whatever execution it is in"
            again = client.get_workflow_handle(run.id)
            await again.signal("resume")
            result = await ended(run)
            executions = [found async for found in client.list_workflows(f"WorkflowId = '{run.id}'")]
    assert len(executions) > 2
    assert len(fakes.of("plan")) == 1
    totals = result.totals
    assert (totals.total, totals.published, totals.failed, totals.unchanged, totals.not_run) == (25, 21, 3, 1, 0)
    assert totals.counts.rows_in == 210
    (finalise,) = fakes.of("finalise")
    assert sorted(f.message for f in finalise.failures) == ["block=03", "block=13", "block=23"]


async def test_progress_is_told_while_a_run_is_at_work(client: Client) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    fakes = Fakes([[*planned(A, B), *planned(D, run=False)]], on={f"enrich_batch:{B}": slow})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: bool(fakes.of("publish", A)))
        async with asyncio.timeout(10):
            while not (said := await run.query(RunWorkflow.progress)).finished:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (said.state, said.rows_total, said.rows_done, said.running) == ("running", 20, 10, (B,))
        assert [found.partition for found in said.finished] == [A]
        assert (said.totals.total, said.totals.published, said.totals.unchanged) == (3, 1, 1)
        go.set()
        await ended(run)


async def test_a_batch_that_is_handed_back_just_when_the_run_is_cancelled_is_not_begun_again(client: Client) -> None:
    async def handing_back(request: BatchRequest, nth: int) -> BatchResult:
        with suppress(asyncio.CancelledError):
            await beat_until(asyncio.Event())
        return BatchResult(state="handed_back", reason="the worker is shutting down")

    fakes = Fakes([planned(A)], on={"enrich_batch": handing_back})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: bool(fakes.of("enrich_batch")))
        await run.cancel()
        async with asyncio.timeout(20):
            result = await ended(run)
    assert result.state == "cancelled"
    assert max(Counter(said.batch for said in fakes.of("enrich_batch")).values()) == 1
    (close,) = fakes.of("close", A)
    assert (close.outcome, bool(close.fence)) == ("cancelled", True)


async def test_what_batches_of_a_partition_have_spent_is_told_though_they_are_over(client: Client) -> None:
    """A batch that has ended no longer beats, and one that waits will beat anew."""
    go = asyncio.Event()

    async def spending(request: BatchRequest, nth: int) -> BatchResult | None:
        spent = Spent(calls=5, cost_usd=0.25, rejects={"parse": 2}, failed_calls={"rate_limited": 1})
        if request.batch == 0:
            return BatchResult(state="done", receipt="receipt-0", rows=5, spent=spent)
        if nth == 1:
            return BatchResult(state="waiting", until=dt.datetime.now(dt.UTC), reason="429", spent=spent)
        await beat_until(go)
        return None

    fakes = Fakes(on={"enrich_batch": spending})
    async with at_work(client, fakes) as bench:
        partition = await bench.partition(A)
        await until(lambda: len(fakes.of("enrich_batch")) == 3)
        said = await partition.query(PartitionWorkflow.progress)
        assert said.spent == Spent(calls=10, cost_usd=0.5, rejects={"parse": 4}, failed_calls={"rate_limited": 2})
        go.set()
        await ended(partition)
