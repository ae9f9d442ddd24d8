"""Errors of partitions that have ended are read from the sink once, not with each state that is shown."""

from __future__ import annotations

import pytest

from pipeline.sinks import outcomes
from pipeline.stores import MemoryStore, Store
from pipeline.web.facts import live
from schemas.manifest import Counts
from schemas.messages.partition import PartitionResult
from schemas.messages.run import Progress, Totals


@pytest.mark.parametrize("rejected", [0, 2])
async def test_what_ended_before_is_read_once(rejected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    earlier = PartitionResult(partition="p=1", outcome="published", counts=Counts(rejected=rejected), generation=1)

    def noted(store: Store, run: str) -> list[PartitionResult]:
        read.append(run)
        return [earlier]

    monkeypatch.setattr(outcomes, "outcomes", noted)
    progress = Progress(
        state="running", detail="", totals=Totals(), rows_total=9, rows_done=0, rejected=0, running=(),
        finished_before=1,
    )  # fmt: skip
    errors = live.FinishedErrors(MemoryStore(f"errors-{rejected}"), "run-1")
    for _ in range(3):
        assert await errors.with_progress(progress) == {}
    assert read == ["run-1"]
