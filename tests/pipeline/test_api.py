"""Tandem from Python: a table in, a report and a LazyFrame out."""

from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pipeline.api import check, plan, run, scan
from schemas.errors import SpecError, UsageError

TEXTS = ["great product, love it", "terrible, broken", "it is a box"]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    return {
        "name": "notebook",
        "stages": [
            {
                "name": "feel",
                "uses": "extract",
                "model": "offline:lexical",
                "prompt": "{{ text }}",
                "output": {"sentiment": {"type": "enum", "values": ["positive", "negative", "neutral"]}},
            }
        ],
        "sink": {"path": "out"},
    }


def test_a_frame_goes_in_and_comes_out_enriched_and_four_rows_cost_four_calls(spec: dict[str, Any]) -> None:
    frame = pl.DataFrame({"id": [1, 2, 3], "text": TEXTS})
    assert check(spec, frame=frame) == {"id": "int64", "text": "string", "sentiment": "string"}
    assert [(d.run, d.reason, d.rows) for d in plan(spec, frame=frame)] == [(True, "never published", 3)]
    first = run(spec, frame=frame)
    assert first.ok
    assert first.report["usage"]["calls"] == 3
    assert first.frame is not None
    out = first.frame.collect()
    assert out["id"].to_list() == [1, 2, 3]
    assert out["sentiment"].to_list() == ["positive", "negative", "neutral"]

    longer = pd.DataFrame({"id": [1, 2, 3, 4], "text": [*TEXTS, "awful"]})
    second = run(spec, frame=longer)
    assert (second.report["usage"]["calls"], second.report["journal"]["rows_reused"]) == (1, 3)
    assert scan("out").collect()["id"].to_list() == [1, 2, 3, 4]
    assert [d.run for d in plan(spec, frame=longer)] == [False]


def test_it_runs_where_an_event_loop_is_at_work_as_in_a_notebook(spec: dict[str, Any]) -> None:
    async def cell() -> Any:
        return run(spec, frame=pa.table({"text": TEXTS}))

    import asyncio

    assert asyncio.run(cell()).report["rows"]["ok"] == 3


def test_what_is_no_table_or_no_spec_is_said_in_a_sentence(spec: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not a table"):
        check(spec, frame=object())
    with pytest.raises(SpecError, match="stages is missing"):
        check({"name": "x", "source": {"path": "x.csv"}, "sink": {"path": "y"}})


def test_a_budget_stops_a_run_without_an_exception(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-no-use")
    frame = pl.DataFrame({"id": [1, 2, 3], "text": TEXTS})
    stopped = run({**spec, "limits": {"max_tokens": 100}}, frame=frame)
    assert (stopped.ok, stopped.report["state"], stopped.report["usage"]["calls"]) == (False, "paused", 0)
    assert run(spec, frame=frame).report["usage"]["calls"] == 3
    with pytest.raises(SpecError, match="the price of"):
        run({**spec, "stages": [{**spec["stages"][0], "model": "openai:no-such"}]}, frame=frame, max_cost_usd=1)
