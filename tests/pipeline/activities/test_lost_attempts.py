"""An attempt that died where nobody can read what it had not flushed is written down, and no other."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from temporalio.testing import ActivityEnvironment

from pipeline.activities.batch import _note_lost_attempt
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.messages.base import RunRef
from schemas.messages.batch import BatchRequest, Heartbeat

HERE, ELSEWHERE = "a", "b"


@pytest.mark.parametrize(
    ("attempt", "details", "lost"),
    [
        (1, [], 0),
        (2, [], 0),
        (2, [Heartbeat(calls=98, spool=HERE).model_dump()], 0),
        (2, [Heartbeat(calls=98, spool=ELSEWHERE).model_dump()], 1),
        (2, [Heartbeat(calls=98).model_dump()], 0),
        (2, [5, 7, 0.1], 0),
    ],
)
async def test_only_what_another_machine_may_hold_is_lost(attempt: int, details: list[object], lost: int) -> None:
    store = MemoryStore(uuid.uuid4().hex)
    ref = RunRef(pipeline="p", run="run-1", sink=store.uri)
    request = BatchRequest(ref=ref, plan="", partition="d=1", opened="", batch=3)
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=attempt, heartbeat_details=details)
    await environment.run(_note_lost_attempt, store, request, HERE)
    assert [info.key for info in store.list(ids.lost_attempts("run-1"))] == [
        ids.lost_attempt("run-1", "d=1", 3, attempt - 1)
    ] * lost
