"""What crosses Temporal in a real run: references and counts, within the cap, and never a row, a prompt or a secret."""

from __future__ import annotations

import base64
import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from pipeline.activities.registered import Activities
from pipeline.runs import requests
from pipeline.stores import open_store
from pipeline.worker import working
from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.messages.base import MAX_PAYLOAD_BYTES, RunRef
from schemas.messages.run import Page, PageRequest, PlannedPartition, RunInput
from schemas.plan import Selection
from schemas.spec.sections import Spec
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import ended
from tests.pipeline.jobs import EXTRACT, rows

SECRET, PROMPT, ROW = "canary-5f2c-secret", "canary-prompt", "angry"


async def test_histories_of_a_real_run_hold_no_row_no_prompt_and_no_secret(
    tmp_path: Path, temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "CANARY"):
        monkeypatch.setenv(name, SECRET)
    rows(25, blank=5).write_parquet(tmp_path / "rows.parquet")
    said: dict[str, Any] = {
        "name": f"payloads-{uuid.uuid4().hex[:6]}",
        "source": {"path": "rows.parquet"},
        "stages": [{**EXTRACT, "prompt": f"{PROMPT} {{{{ text }}}}", "system": "${CANARY}", "when_empty": "reject"}],
        "sink": {"path": "out"},
        "limits": {"batch_rows": 10},
        "notify": [{"on": ["failed"], "webhook": "https://example.invalid/${CANARY}"}],
    }
    spec = Spec.model_validate(said)
    store = open_store(str(tmp_path / "out"))
    request = requests.write_request(store, spec, tmp_path, Selection(), "run-1")
    ref = RunRef(pipeline=spec.name, run="run-1", sink=store.uri)
    client = await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)
    async with working(client, spec.name):
        handle = await client.start_workflow(
            RunWorkflow.run,
            RunInput(ref=ref, request=ids.request(request.run), task_queue=spec.name),
            id=ids.run_workflow_id(ref.pipeline, ref.sink, ref.run),
            task_queue=spec.name,
        )
        result = await ended(handle)
    assert (result.state, result.totals.counts.ok, result.totals.counts.rejected) == ("completed", 20, 5)
    child = ids.partition_workflow_id(ref.pipeline, ref.sink, "file=rows.parquet")
    for workflow in (handle.id, child):
        history = json.loads((await client.get_workflow_handle(workflow).fetch_history()).to_json())
        payloads = [base64.b64decode(found) for found in re.findall(r'"data": ?"([^"]+)"', json.dumps(history))]
        everything = json.dumps(history).encode() + b"".join(payloads)
        assert len(payloads) > 4
        assert max(map(len, payloads)) < 8 * 1024
        for word in (SECRET, PROMPT, ROW, "Invoice"):
            assert word.encode() not in everything
    for info in store.list():
        assert SECRET.encode() not in store.get(info.key), info.key


async def test_a_result_beyond_the_cap_fails_at_once(tmp_path: Path) -> None:
    """Temporal itself would run the activity again for each attempt."""
    store = open_store(str(tmp_path))
    line = PlannedPartition(key="k", run=True, reason="x" * 1000)
    page = Page(partitions=(line,) * 70)
    store.put_new(ids.plan_page("runs/plan.json", 0), page.model_dump_json().encode())
    ref = RunRef(pipeline="p", run="r", sink=store.uri)
    with pytest.raises(ApplicationError, match=f"{MAX_PAYLOAD_BYTES:,} are allowed") as caught:
        await ActivityEnvironment().run(Activities().run.read_page, PageRequest(ref=ref, plan="runs/plan.json", page=0))
    assert (caught.value.type, caught.value.non_retryable) == ("ResultTooLarge", True)
