"""Record the histories that `test_replay.py` replays: python -m tests.histories.record

Three runs on a real server: one that publishes, one of which a partition fails, one that is cancelled. Histories are
of the workflows' commands; record them anew only when the commands change on purpose, before a release. After one, keep
the old files beside the new: running runs of the released version have to go on.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from pipeline.runs import requests
from pipeline.stores import open_store
from pipeline.worker import working
from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.messages.base import RunRef
from schemas.messages.run import RunInput, RunResult
from schemas.plan import Selection
from schemas.spec.sections import Spec
from tests.harness.servers import TemporalServer
from tests.pipeline.jobs import rows

HERE = Path(__file__).parent
# Of every machine: a history holds the sink, from which workflow ids are made.
FOLDER = Path(tempfile.gettempdir()) / "tandem-histories"
PROMPT = "Sort this ticket, the prompt says: {{ text }}"
# Not `sdkMetadata`: its flags say by which of its rules the SDK ordered commands, which a replay has to keep.
_PRIVATE = frozenset(("identity", "workerVersion", "binaryChecksum", "sdkName", "sdkVersion", "stackTrace"))


def spec(**changed: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "histories",
            "source": {"path": "rows.parquet"},
            "partition": {"by": "time", "column": "at"},
            "stages": [
                {
                    "name": "triage", "uses": "extract", "model": "offline:lexical", "prompt": PROMPT,
                    "output": {"summary": "str"},
                }
            ],
            "sink": {"path": "out"},
            "limits": {"batch_rows": 10},
            **changed,
        }
    )  # fmt: skip


async def run(client: Client, spec: Spec, base: Path, *, cancel_when: str = "") -> tuple[str, RunResult]:
    """A run to its end, on a queue of its own; cancelled once an object appears under `cancel_when`."""
    store = open_store(str(base / "out"))
    request = requests.write_request(store, spec, base, Selection(), "recorded")
    ref = RunRef(pipeline=spec.name, run=request.run, sink=store.uri)
    queue = f"histories-{uuid.uuid4().hex[:6]}"
    async with working(client, queue):
        handle = await client.start_workflow(
            RunWorkflow.run,
            RunInput(ref=ref, request=ids.request(request.run), task_queue=queue),
            id=ids.run_workflow_id(ref.pipeline, ref.sink, ref.run),
            task_queue=queue,
        )
        if cancel_when:
            while next(iter(store.list(cancel_when)), None) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the store tells nobody
            await handle.cancel()
        async with asyncio.timeout(60):
            return handle.id, await handle.result()


async def histories(client: Client, run_id: str) -> dict[str, str]:
    """Workflow id → its history as JSON, of a run and its partitions."""
    prefix = run_id.partition("/run/")[0]
    found = {}
    async for execution in client.list_workflows():
        if execution.id.startswith(prefix):
            history = await client.get_workflow_handle(execution.id).fetch_history()
            found[execution.id] = history.to_json()
    return found


def scrubbed(value: Any) -> Any:
    """Without who recorded it where."""
    if isinstance(value, Mapping):
        return {name: scrubbed(item) for name, item in value.items() if name not in _PRIVATE}
    return [scrubbed(item) for item in value] if isinstance(value, list) else value


def runs(base: Path) -> Iterator[tuple[str, Spec, str]]:
    """Name, spec and when to cancel, each with its rows in place."""
    frame = pl.concat([rows(25), rows(5, day="2026-11-02")])
    frame.write_parquet(base / "rows.parquet")
    yield "completed", spec(), ""
    pl.concat([frame, rows(1)]).write_parquet(base / "rows.parquet")
    yield "failed", spec(source={"path": "rows.parquet", "key": ["id", "at"]}), ""
    slow = {"model": {"name": "offline:lexical", "params": {"latency_ms": 3000}}}
    stages = [{**spec().stages[0].model_dump(exclude_unset=True), **slow}]
    yield "cancelled", spec(stages=stages), "_tandem/staging/"


async def record(target: Path) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as server_folder, TemporalServer.start(Path(server_folder)) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        base = FOLDER
        base.mkdir()
        for name, said, cancel_when in runs(base):
            shutil.rmtree(base / "out", ignore_errors=True)
            id, result = await run(client, said, base, cancel_when=cancel_when)
            assert result.state == name, result
            found = {key: scrubbed(json.loads(text)) for key, text in (await histories(client, id)).items()}
            (target / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    asyncio.run(record(HERE))
