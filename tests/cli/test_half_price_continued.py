"""`--tier batch` over histories that are continued as new, of runs and of jobs: nothing lost, nothing sent twice."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

from temporalio.client import Client

from tests.cli.half_price import a_project, published, quick_jobs
from tests.harness.model_server import ModelServer
from tests.harness.servers import TemporalServer

_ROWS, _DAYS, _CALLS = 36, 12, 5


async def executions(server: TemporalServer) -> dict[str, int]:
    """How many executions the workflows of the run, and of its jobs, have had."""
    client, found = await Client.connect(server.address), {"run": 0, "jobs": 0}
    async for one in client.list_workflows():
        if (kind := re.search(r"/(run|jobs)/", one.id)) is not None:
            found[kind[1]] += 1
    return found


def test_runs_and_jobs_that_continue_as_new_lose_nothing_and_submit_nothing_twice(
    tmp_path: Path, model_server: ModelServer
) -> None:
    """Both do so while jobs are out and partitions wait."""
    quick_jobs(model_server, run_s=1.0)
    project = a_project(tmp_path / "p", model_server, rows=_ROWS, days=_DAYS, graph="steps")
    with TemporalServer.start(tmp_path / "temporal", events=40) as server:
        project.env |= server.env()
        with project.start("worker") as worker:
            done = project.tandem("run", "--tier", "batch", "--json", "--yes", timeout_s=400).ok().json
            worker.end(signal.SIGTERM)
        found = asyncio.run(executions(server))
    assert found["run"] > 1
    assert found["jobs"] > 1
    assert (done["state"], done["usage"]["calls"], len(published(project))) == ("completed", _ROWS * _CALLS, _ROWS)
    counts = model_server.jobs()
    assert (counts["submitted"], counts["most_submitted"]) == (_ROWS * _CALLS, 1)
    assert [job["requests"] for job in counts["jobs"]] == [_ROWS, 3 * _ROWS, _ROWS]
