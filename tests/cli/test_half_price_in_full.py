"""`--tier batch` at its full size, and smaller ones of the same for CI: agents, backfills, very many requests."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import re
import signal
import threading
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import pytest
from temporalio.client import Client

from tests.cli.half_price import MODEL, START, a_project, published, quick_jobs
from tests.cli.support import Started, eventually
from tests.harness.model_server import ModelServer
from tests.harness.servers import TemporalServer

pytestmark = pytest.mark.timeout(3_600)
_JOB = 50_000  # requests, at most
_GATHERING = {"gather": "6h"}  # however busy the machine is: until a job is full, or nothing else is at work
TOOLS = '''
from pathlib import Path

CALLS = Path(__file__).with_name("tool_calls")

def stock(item: str) -> str:
    """How many there are."""
    with CALLS.open("a") as out:
        out.write("x")
    return f"7 of {item}"
'''


@pytest.mark.parametrize("rows", [6, pytest.param(200, marks=pytest.mark.prove)])
def test_an_agent_takes_a_wave_a_turn_and_runs_each_tool_once(
    tmp_path: Path, model_server: ModelServer, rows: int
) -> None:
    stage = {"name": "act", "uses": "agent", "model": MODEL, "prompt": "Do it: {{ body }}", "output": {"done": "str"},
             "tools": ["shop_tools:stock"]}  # fmt: skip
    project = a_project(tmp_path, model_server, rows=rows, days=4)
    (tmp_path / "shop_tools.py").write_text(TOOLS)
    project.spec["stages"] = [stage]
    project.write()
    call = {"match": "Do it", "action": "tool_calls", "turns": 2,
            "tool_calls": [{"name": "stock", "arguments": {"item": "lamp"}}]}  # fmt: skip
    answer = {"match": "Do it", "action": "text", "text": json.dumps({"done": "yes"})}
    model_server.script({"rules": [call, answer], "jobs": {"queue_s": 0.2, "run_s": 0.5, "shuffle": True}})
    done = project.tandem("run", "--tier", "batch", "--json", timeout_s=900).ok().json
    jobs = model_server.jobs()
    print(f"{rows} rows: jobs of {[job['requests'] for job in jobs['jobs']]} requests")
    assert [job["requests"] for job in jobs["jobs"]] == [rows] * 3
    assert (jobs["submitted"], jobs["most_submitted"], done["rows"]["ok"]) == (3 * rows, 1, rows)
    assert len((tmp_path / "tool_calls").read_text()) == 2 * rows
    assert list(done["usage"]["by_tier"]) == ["batch"]


@pytest.mark.parametrize(("days", "rows"), [(6, 4), pytest.param(60, 50, marks=pytest.mark.prove)])
def test_a_backfill_by_jobs_and_a_live_run_of_the_last_days_pay_for_each_call_once(
    tmp_path: Path, model_server: ModelServer, days: int, rows: int
) -> None:
    """The live run publishes the new day while the jobs are out, and waits for the one that the backfill holds."""
    quick_jobs(model_server, run_s=8.0)
    project = a_project(tmp_path, model_server, rows=(days + 1) * rows, days=days + 1, graph="steps")
    project.spec["limits"] = _GATHERING
    project.write()
    last, new = (f"{START + dt.timedelta(days=day):%Y-%m-%d}" for day in (days - 1, days))
    over = "--from-date", f"{START:%Y-%m-%d}", "--to-date"
    with project.start("backfill", *over, last, "--tier", "batch", "--json", "--name", "past", "--yes") as past:
        eventually(lambda: bool(model_server.jobs()["jobs"]), "a job is submitted", timeout_s=600)
        night = project.tandem(
            "run", "--partition", f"day={last}", "--partition", f"day={new}", "--json", "--name", "night",
            timeout_s=1_500,
        ).ok().json  # fmt: skip
        done = past.wait(1_500).ok().json
    jobs, stats = model_server.jobs(), model_server.stats()
    waves = [job["requests"] for job in jobs["jobs"]]
    print(f"{days} days of {rows} rows: jobs of {waves} requests; live calls: {night['usage']['calls']}")
    calls = 5 * rows
    assert (done["partitions"]["published"], night["partitions"]["published"]) == (days, 1)
    assert len(waves) <= sum(math.ceil(steps * days * rows / _JOB) for steps in (1, 3, 1))
    assert (jobs["submitted"], jobs["most_submitted"], done["usage"]["calls"]) == (calls * days, 1, calls * days)
    assert night["usage"]["calls"] == calls
    assert stats.answered_ok == stats.contents == calls * (days + 1)
    assert len(published(project)) == (days + 1) * rows


class Memory:
    """The largest of the processes of a command, in MB, every second as long as the block lasts."""

    def __init__(self, command: Started) -> None:
        self.seen: list[float] = []
        self._command, self._over = psutil.Process(command.process.pid), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            with suppress(psutil.NoSuchProcess):
                found = [self._command, *self._command.children(recursive=True)]
                self.seen.append(max(process.memory_info().rss for process in found) / 2**20)


async def longest_histories(server: TemporalServer) -> dict[str, int]:
    """The number of events of the longest history, by kind of workflow."""
    client, found = await Client.connect(server.address), dict[str, int]()
    async for one in client.list_workflows():
        kind = re.search(r"/(run|jobs|partition)/", one.id)
        if kind is not None:
            found[kind[1]] = max(found.get(kind[1], 0), one.history_length)
    return found


@pytest.mark.parametrize(("rows", "days"), [(600, 3), pytest.param(200_000, 20, marks=pytest.mark.prove)])
def test_very_many_requests_need_flat_memory_and_short_histories(
    tmp_path: Path, model_server: ModelServer, rows: int, days: int
) -> None:
    quick_jobs(model_server)
    project = a_project(tmp_path / "p", model_server, rows=1, days=1)
    numbers = range(rows)
    table = pl.DataFrame(
        {
            "id": numbers,
            "created_at": [START + dt.timedelta(days=number % days, seconds=number // days) for number in numbers],
            "body": [f"message number {number} about" for number in numbers],
        }
    )
    table.write_parquet(project.folder / "rows.parquet")
    project.spec |= {"source": {"path": "rows.parquet", "key": ["id"]}, "limits": _GATHERING}
    project.write()
    with TemporalServer.start(tmp_path / "temporal") as server:
        project.env |= server.env()
        with project.start("worker") as worker, Memory(worker) as memory:
            done = project.tandem("run", "--tier", "batch", "--json", "--yes", timeout_s=3_500).ok().json
            worker.end(signal.SIGTERM)
        events = asyncio.run(longest_histories(server))
    jobs, quarter = model_server.jobs(), max(1, len(memory.seen) // 4)
    peaks = [round(max(memory.seen[at : at + quarter])) for at in range(0, 4 * quarter, quarter) if memory.seen[at:]]
    print(f"{rows:,} rows in {len(memory.seen)} s: jobs of {[job['requests'] for job in jobs['jobs']]}")
    print(f"largest process, MB, by quarters of the time: {peaks}; events: {events}")
    assert (jobs["submitted"], jobs["most_submitted"], done["rows"]["ok"]) == (rows, 1, rows)
    assert len(jobs["jobs"]) == math.ceil(rows / _JOB)
    assert max(events.values()) < 5_000
    assert max(peaks) < 1_000
