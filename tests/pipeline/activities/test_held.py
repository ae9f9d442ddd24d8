"""A partition whose calls are in another run's provider jobs is not opened while that run may still be open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from pipeline.activities.partition import refuse_held
from pipeline.runs import waiting
from pipeline.stores import MemoryStore
from schemas.errors import ConnectionFailed, PartitionHeld
from schemas.messages.base import RunRef
from schemas.messages.partition import OpenRequest

DAY = "day=2026-11-01"


def a_client(answer: WorkflowExecutionStatus | RPCStatusCode) -> Any:
    """A client of Temporal that gives this status of any workflow, or fails in this way."""

    async def describe() -> SimpleNamespace:
        if isinstance(answer, RPCStatusCode):
            raise RPCError("no", answer, b"")
        return SimpleNamespace(status=answer)

    return SimpleNamespace(get_workflow_handle=lambda id: SimpleNamespace(describe=describe))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (WorkflowExecutionStatus.RUNNING, PartitionHeld),
        (WorkflowExecutionStatus.COMPLETED, None),
        (RPCStatusCode.NOT_FOUND, None),
        (RPCStatusCode.UNAVAILABLE, ConnectionFailed),
    ],
)
async def test_only_a_run_that_surely_ended_holds_nothing(answer: Any, error: type[Exception] | None) -> None:
    store = MemoryStore(f"held-{answer}")
    waiting.note(store, DAY, waiting.Waiting(pipeline="tests", run="batch"))
    request = OpenRequest(ref=RunRef(pipeline="tests", run="nightly", sink="s"), plan="p", partition=DAY, limit=1)
    if error is None:
        await refuse_held(a_client(answer), store, request)
        assert waiting.waiting_run(store, DAY) is None
        return
    with pytest.raises(error):
        await refuse_held(a_client(answer), store, request)
    assert waiting.waiting_run(store, DAY) is not None, "the note stays for the next attempt"
