"""Runs that were begun by an earlier version go on under this one: recorded histories replay."""

import base64
import json
import re
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from pipeline.workflows.partition import PartitionWorkflow
from pipeline.workflows.run import RunWorkflow
from schemas.messages.partition import PartitionInput, PartitionResult
from tests.harness.sandbox import sandbox

RECORDED = sorted((Path(__file__).parents[2] / "histories").glob("*.json"))


def histories(path: Path) -> list[WorkflowHistory]:
    return [WorkflowHistory.from_json(name, found) for name, found in json.loads(path.read_text()).items()]


def replayer(*workflows: type) -> Replayer:
    return Replayer(workflows=workflows, workflow_runner=sandbox(), data_converter=pydantic_data_converter)


def test_there_are_recordings_of_each_end() -> None:
    assert {"completed", "failed", "cancelled"} <= {path.stem for path in RECORDED}
    assert all(len(histories(path)) > 1 for path in RECORDED), "a run and its partitions"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    for history in histories(path):
        await replayer(RunWorkflow, PartitionWorkflow).replay_workflow(history)


@workflow.defn(name="PartitionWorkflow", sandboxed=False)
class Broken:
    """The partition workflow, were its first command another one."""

    @workflow.run
    async def run(self, given: PartitionInput) -> PartitionResult:
        await workflow.sleep(1)
        return PartitionResult(partition=given.partition, outcome="unchanged")


async def test_a_change_that_breaks_running_workflows_fails_the_replay() -> None:
    path = next(path for path in RECORDED if path.stem == "completed")
    history = next(found for found in histories(path) if "/partition/" in found.workflow_id)
    with pytest.raises(workflow.NondeterminismError):
        await replayer(Broken).replay_workflow(history)


def test_histories_hold_references_and_counts_only() -> None:
    for path in RECORDED:
        payloads = [base64.b64decode(data).decode() for data in re.findall(r'"data": ?"([^"]+)"', path.read_text())]
        assert any("_tandem/runs/" in payload for payload in payloads)
        assert max(map(len, payloads)) < 4096, "no rows, no prompts, no schemas"
