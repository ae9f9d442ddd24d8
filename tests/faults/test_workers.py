"""A fleet with a Temporal of its own: workers that die, are told to stop, or freeze; a server that dies; a cancel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from pipeline.embedded.server import EmbeddedServer
from schemas import ids
from tests.cli.support import eventually
from tests.faults.conftest import MakeRig
from tests.faults.rig import (
    HEARTBEAT_S,
    IN_FLIGHT,
    NAME,
    Rig,
    Twins,
    asked_after,
    measured,
    pause,
    table,
    thaw,
)
from tests.harness.servers import TemporalServer

# Real processes and real seconds. In full by `make prove`, on a quiet machine; CI runs the reduced ones.
pytestmark = pytest.mark.timeout(900)
SIZES = [160, pytest.param(800, marks=pytest.mark.prove)]


@pytest.mark.parametrize("rows", SIZES)
def test_one_of_two_workers_is_killed(
    make_rig: MakeRig, twins: Twins, temporal_server: TemporalServer, rows: int
) -> None:
    rig = make_rig(table(rows))
    twin = twins.of(rig)
    with rig.read(), rig.workers(temporal_server, 2) as (one, _), rig.run() as client:
        rig.answered(3 * rows // 8)
        one.end(signal.SIGKILL)
        report = client.wait().ok().json
        rig.check(twin, again=IN_FLIGHT)
    measured("one of two workers killed", billed=rig.billed, needed=twin.calls, usage=report["usage"])


@pytest.mark.parametrize("rows", SIZES)
def test_sigterm_drains_and_pays_for_nothing_twice(
    make_rig: MakeRig, twins: Twins, temporal_server: TemporalServer, rows: int
) -> None:
    """The worker ends within 35 s, its rows in flight are finished and kept; another one carries on."""
    rig = make_rig(table(rows), latency_ms=300)
    twin = twins.of(rig)
    with rig.read(), rig.workers(temporal_server, 1) as (one,), rig.run() as client:
        rig.answered(rows // 4)
        began = time.monotonic()
        assert one.end(signal.SIGTERM).code == 0, one.err
        took = time.monotonic() - began
        with rig.start("worker"):
            report = client.wait().ok().json
            rig.check(twin, again=0)
    assert took <= 35
    assert report["usage"]["unknown"] == 0
    measured("SIGTERM", seconds=round(took, 1), billed=rig.billed, needed=twin.calls)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_a_frozen_worker_commits_nothing_when_it_thaws(
    make_rig: MakeRig, twins: Twins, temporal_server: TemporalServer
) -> None:
    """SIGSTOP for three heartbeat timeouts, in mid-batch; meanwhile another worker does its work."""
    rig = make_rig(table(800))
    twin = twins.of(rig)
    with rig.read(), rig.workers(temporal_server, 1) as (zombie,), rig.run() as client:
        rig.answered(200)
        pause(zombie)
        frozen = time.monotonic()
        with rig.start("worker"):
            time.sleep(3 * HEARTBEAT_S)
            before = rig.model.stats().requests
            moment = time.time()
            thaw(zombie)
            report = client.wait().ok().json
            took = time.monotonic() - frozen
            done = [rig.store.get(info.key) for info in rig.store.list(ids.COMMITS)]
            time.sleep(3)
            assert [rig.store.get(info.key) for info in rig.store.list(ids.COMMITS)] == done
            zombie_calls = len(asked_after(rig.calls(), moment)) if before >= twin.calls else None
            rig.check(twin, again=2 * IN_FLIGHT, untold=2 * IN_FLIGHT)
    measured(
        "frozen", billed=rig.billed, needed=twin.calls, seconds=round(took, 1), usage=report["usage"],
        asked_before_thaw=before, asked_after_thaw=zombie_calls,
    )  # fmt: skip
    assert took <= 5 * HEARTBEAT_S + 10


@pytest.mark.prove
def test_the_temporal_server_dies_and_comes_back(make_rig: MakeRig, twins: Twins, tmp_path: Path) -> None:
    """SIGKILL in mid-run, 5 s down; workers and the client reconnect by themselves, no call is repaid."""
    rig = make_rig(table(800))
    twin = twins.of(rig)
    with (
        TemporalServer.start(tmp_path / "temporal") as server,
        rig.read(),
        rig.workers(server, 1),
        rig.run() as client,
    ):
        rig.answered(300)
        server.kill()
        time.sleep(5)
        server.restart()
        result = client.wait()
        if result.code != 0:  # the client may lose its server; the run does not
            result = rig.finish_again()
        rig.check(twin, again=IN_FLIGHT)
    measured("Temporal SIGKILL", client=result.code, billed=rig.billed, needed=twin.calls)


@pytest.mark.prove
def test_the_embedded_server_dies_and_comes_back(make_rig: MakeRig, twins: Twins) -> None:
    rig = make_rig(table(800))
    twin = twins.of(rig)
    with rig.read(), rig.run() as process:
        rig.answered(300)
        info = EmbeddedServer.running(rig.folder / ".home")
        assert info is not None
        os.kill(info.pid, signal.SIGKILL)
        report = process.wait().ok().json
    rig.check(twin, again=IN_FLIGHT)
    measured("embedded server SIGKILL", billed=rig.billed, needed=twin.calls, usage=report["usage"])


@pytest.mark.prove
def test_a_cancel_is_seen_at_once_and_nothing_follows(make_rig: MakeRig, twins: Twins) -> None:
    """`tandem dev` works, `run --detach` starts, `runs cancel` returns: by then 0 new calls, 0 commits, ever."""
    rig = make_rig(table(800), latency_ms=1000)
    with rig.start("dev"):
        eventually(lambda: EmbeddedServer.running(rig.folder / ".home") is not None, "dev is up")
        time.sleep(1)
        with rig.run("--detach") as client:
            client.wait().ok()
        rig.answered(200)
        with rig.start("runs", "cancel") as cancel:
            cancel.wait(30).ok()
        returned = time.time()
        asked = asyncio.run(_cancel_requested(rig))
        time.sleep(5)
        calls = rig.calls()
        late, after = asked_after(calls, asked + 3), asked_after(calls, returned)
        last = max(call.t_start for call in calls) - asked
        seen = rig.check(twins.of(rig), due=False)
        measured(
            "cancel", last_call_after_s=round(last, 2), returned_after_s=round(returned - asked, 2), late=len(late),
            after_return=len(after), billed=rig.billed,
            usage=[r["totals"]["usage"] for r in seen.reports.values()],
        )  # fmt: skip
        kinds = {m["kind"] for generations in seen.commits.values() for m in generations.values()}
        assert not late
        assert not after
        assert kinds <= {"tombstone"}
    _carried_on_after_a_cancel(rig, twins)


async def _cancel_requested(rig: Rig) -> float:
    """When Temporal took the cancel of the only run: the command that asks for it needs its time to start."""
    info = EmbeddedServer.running(rig.folder / ".home")
    assert info is not None
    client = await Client.connect(info.address)
    (name,) = rig.store.folders(ids.RUNS)
    handle = client.get_workflow_handle(ids.run_workflow_id(NAME, rig.store.uri, name))
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            return event.event_time.ToNanoseconds() / 1e9
    raise AssertionError("no cancel was requested")


def _carried_on_after_a_cancel(rig: Rig, twins: Twins) -> None:
    """A new run builds on what the cancelled one had paid for."""
    twin = twins.of(rig)
    rig.finish()
    rig.check(twin, again=IN_FLIGHT)  # a tombstone is a generation, and no publication


@pytest.mark.prove
def test_two_runs_of_one_command_are_one_run(make_rig: MakeRig, twins: Twins) -> None:
    """The same command twice at once: one joins the other, nothing is paid or published twice."""
    rig = make_rig(table(120))
    twin = twins.of(rig)
    with rig.read(), rig.run() as one, rig.run() as other:
        reports = [json.loads(process.wait().ok().out) for process in (one, other)]
    rig.check(twin, again=0)
    measured("two at once", runs=[report["run"] for report in reports], billed=rig.billed, needed=twin.calls)
