"""A trial: what each stage makes of each row, wherever the row goes."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.context import batch_context
from pipeline.enrichment.trial import Trial, short
from schemas.staging import PlannedBatch
from stages.execution.equal_rows.single_flight import Shared
from tests.pipeline.jobs import EXTRACT, Bench, rows

CHECK = {"name": "sane", "uses": "checks", "with": {"rules": [{"name": "low", "sql": "id < 3"}]}}
EXPLODE = {"name": "parts", "uses": "explode", "with": {"column": "parts", "into": "part"}}
FEW = {"name": "few", "uses": "sql", "query": "SELECT id, text, part FROM rows WHERE part <> 'b'"}


async def tried(bench: Bench, *stages: dict[str, Any], last: str | None = None) -> tuple[Trial, list[dict[str, Any]]]:
    import asyncio

    job = bench.job(stages=list(stages))
    snapshot = job.snapshot
    table = snapshot.read(snapshot.partitions[0], list(snapshot.entry(snapshot.partitions[0]).ranges))
    batch = PlannedBatch(rows=table.height, ranges=())
    attempt = BatchAttempt(job, bench.store, "try", "p=1", 0, batch)
    context = await batch_context(attempt, Shared(), asyncio.Event())
    trial = Trial(job, table, context)
    try:
        return trial, await trial.through(last)
    finally:
        await context.journal.close()


async def test_rows_are_followed_through_checks_explosions_and_filters(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(5).with_columns(pl.Series("parts", [["a", "b"], ["b"], ["a", "c"], ["a"], ["a"]])))
    trial, told = await tried(bench, CHECK, EXPLODE, FEW, EXTRACT)
    seen = [(path["input"]["id"], [made["status"] for made in path["stages"].values()]) for path in told]
    assert sorted(seen) == [
        (0, ["ok", "ok", "filtered"]), (0, ["ok", "ok", "ok", "ok"]), (1, ["ok", "ok", "filtered"]),
        (2, ["ok", "ok", "ok", "ok"]), (2, ["ok", "ok", "ok", "ok"]), (3, ["rejected"]), (4, ["rejected"]),
    ]  # fmt: skip
    assert [path["stages"]["parts"]["output"]["part"] for path in told if "triage" in path["stages"]] == ["a", "a", "c"]
    assert told[-1]["stages"]["sane"]["error"]["kind"] == "low"
    answered = next(path["stages"]["triage"] for path in told if "triage" in path["stages"])
    assert answered["usage"]["calls"] == 1
    assert answered["steps"][0]["node"] == "ask"
    assert trial.tables == {}


async def test_a_stage_that_groups_is_shown_as_a_table_of_what_was_tried(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(4))
    count = {"name": "count", "uses": "aggregate", "with": {"by": ["level"], "columns": {"n": "count(*)"}}}
    twins = {"name": "twins", "uses": "dedupe", "with": {"on": ["text"], "threshold": 1.0}}
    trial, told = await tried(bench, EXTRACT, twins, count)
    assert sum(row["n"] for row in trial.tables["count"]) == 4
    assert [path["stages"]["twins"]["output"] for path in told] == [{"duplicate": False}] * 4
    assert {path["stages"]["count"]["status"] for path in told} == {"grouped"}


async def test_nothing_is_paid_after_the_last_stage_that_is_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(2))
    trial, told = await tried(bench, EXTRACT, {**EXTRACT, "name": "more", "replace": True}, last="triage")
    assert [list(path["stages"]) for path in told] == [["triage"], ["triage"]]
    assert trial.context.tally.calls == 2


def test_updates_are_cut_to_what_can_be_read() -> None:
    assert short({"a": [1, 2, 3], "b": "x" * 600}) == {"a": [2, 3], "b": "x" * 500}
