"""Histories of rows, firings and limits replay too: those that runs and partitions stand beside in `record_more.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from pipeline.workflows.jobs.workflow import JobsWorkflow
from pipeline.workflows.limits.limiter import LimiterWorkflow
from pipeline.workflows.row import RowWorkflow
from pipeline.workflows.schedule import ScheduledWorkflow
from tests.harness.sandbox import sandbox

HERE = Path(__file__).parent
RECORDED = sorted((HERE / "others").glob("*.json"))
# What must have happened in a history that is kept for it.
HAPPENED = {
    "paused": ('"signalName": "pause"', '"signalName": "resume"'),
    "short": ('"signalName": "short"', '"signalName": "funded"', '"name": "set_limits"'),
    "canary": ('"name": "PartitionWorkflow"',),
    "scheduled": ('"name": "finalise"',),
    "node": ('"name": "RowWorkflow"',),
    "limited": ('"name": "publish"',),
    "asked": ('"name": "answers"', '"signalName": "answered"', '"signalName": "parked"'),
    "held": ('"signalName": "wanted_by"', '"signalName": "freed"'),
    "drained": ('"name": "enrich_batch"',),
    "waiting": ('"signalName": "answers_came"', "CONTINUED_AS_NEW"),
}


def histories(path: Path) -> list[WorkflowHistory]:
    return [WorkflowHistory.from_json(name, found) for name, found in json.loads(path.read_text()).items()]


def test_there_are_recordings_of_each_workflow() -> None:
    assert {path.stem for path in RECORDED} == {"limited", "node", "scheduled", "waiting"}


@pytest.mark.parametrize("case", HAPPENED)
def test_what_a_history_is_kept_for_happened_in_it(case: str) -> None:
    text = (HERE / f"{case}.json").read_text()
    assert [said for said in HAPPENED[case] if said not in text] == []


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    replayer = Replayer(
        workflows=[JobsWorkflow, LimiterWorkflow, RowWorkflow, ScheduledWorkflow],
        workflow_runner=sandbox(),
        data_converter=pydantic_data_converter,
    )
    for history in histories(path):
        await replayer.replay_workflow(history)
