"""When a run has ended, by its last plan and its report."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest

from pipeline.runs.plan_pages import is_closed, latest_plan
from pipeline.runs.report import Report
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.messages.run import Totals
from tests.pipeline.jobs import Bench, rows


@pytest.mark.parametrize(("later_ms", "closed"), [(1, True), (0, True), (-1, False)])
def test_a_run_that_is_planned_and_ends_in_one_second_of_s3_s_clock_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later_ms: int, closed: bool
) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(2))
    run = bench.plan(bench.job()).run
    assert isinstance(bench.store, MemoryStore)
    assert not is_closed(bench.store, run)
    planned = latest_plan(bench.store, run)
    assert planned is not None
    ended = planned.created_at + dt.timedelta(milliseconds=later_ms)
    report = Report(
        run=run, pipeline="p", state="completed", sink="", plan="", totals=Totals(), failures=(), stop=None,
        started_at=planned.created_at, finished_at=ended,
    )  # fmt: skip
    bench.store.put(ids.report(run), report.model_dump_json().encode())
    found = bench.store.head(ids.report(run))
    assert found is not None
    whole = dataclasses.replace(found, modified=planned.created_at - dt.timedelta(milliseconds=900))
    monkeypatch.setattr(bench.store, "head", lambda key: whole)
    assert is_closed(bench.store, run) is closed
    much_earlier = dataclasses.replace(found, modified=planned.created_at - dt.timedelta(seconds=1))
    monkeypatch.setattr(bench.store, "head", lambda key: much_earlier)
    assert not is_closed(bench.store, run), "the report is of an attempt before"
