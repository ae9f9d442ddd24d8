"""Stages that wait for a whole partition: their results, and the counts, which stay in source rows."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from schemas.manifest import Manifest
from tests.pipeline.jobs import EXTRACT, Bench, rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, spec={"source": {"path": "rows.parquet", "key": ["id"]}, "limits": {"batch_rows": 10}})


async def published(bench: Bench, *stages: dict[str, Any]) -> tuple[Manifest, pl.DataFrame]:
    manifest = await bench.one(bench.job(stages=list(stages)))
    counts = manifest.counts
    assert counts.add_up
    data = [pl.read_parquet(bench.store.get(file.key)) for file in manifest.files]
    table = pl.concat(data)
    assert table.height == counts.out
    assert not [name for name in table.columns if name.startswith("__")]
    return manifest, table


def sql(query: str, name: str = "whole") -> dict[str, Any]:
    return {"name": name, "uses": "sql", "scope": "partition", "query": query}


REJECTING = {**EXTRACT, "when_empty": "reject"}
BATCHED = {"name": "some", "uses": "sql", "query": "SELECT * FROM rows WHERE id % 5 <> 0"}


async def test_a_query_sees_all_batches_and_its_rows_are_counted(bench: Bench) -> None:
    bench.write(rows(45, blank=4))
    manifest, table = await published(
        bench, REJECTING, BATCHED, sql("SELECT id, summary FROM rows ORDER BY id DESC LIMIT 7")
    )
    assert table["id"].to_list() == [44, 43, 42, 41, 39, 38, 37]
    counts = manifest.counts
    assert (counts.rows_in, counts.ok, counts.rejected, counts.filtered, counts.out) == (45, 7, 4, 34, 7)


async def test_rows_that_are_grouped_are_ok_all_of_them(bench: Bench) -> None:
    bench.write(rows(45, blank=4))
    grouped = {"name": "count", "uses": "aggregate", "with": {"by": ["level"], "columns": {"n": "count(*)"}}}
    manifest, table = await published(bench, REJECTING, BATCHED, grouped)
    assert table.columns == ["level", "n"]
    assert table["n"].sum() == 36 - 4 + 1  # 45 without 9 multiples of five; of the 4 blank ones, 0 is one
    counts = manifest.counts
    assert (counts.ok, counts.rejected, counts.filtered) == (33, 4, 8)
    again = {**grouped, "name": "first", "uses": "sql", "scope": "partition", "query": "SELECT * FROM rows WHERE n < 0"}
    del again["with"]
    manifest, table = await published(bench, REJECTING, BATCHED, grouped, again)
    assert (table.height, manifest.counts.ok) == (0, 33)


async def test_rejected_rows_that_stay_are_not_ok(bench: Bench) -> None:
    bench.write(rows(20, blank=4))
    stage = {**REJECTING, "on_reject": "null"}
    manifest, table = await published(bench, stage, sql("SELECT * FROM rows WHERE id <> 1 AND id <> 10"))
    assert table["id"].to_list() == [0, 2, 3, 4, 5, 6, 7, 8, 9, *range(11, 20)]
    assert (manifest.counts.ok, manifest.counts.rejected, manifest.counts.filtered) == (15, 4, 1)


EXPLODE = {"name": "parts", "uses": "explode", "with": {"column": "parts", "position": "n", "keep_empty": False}}


async def test_a_row_of_which_a_part_is_rejected_is_rejected(bench: Bench) -> None:
    bench.write(rows(12).with_columns(pl.Series("parts", [["a", "b", ""]] * 4 + [["a", "b"]] * 7 + [[]])))
    manifest, table = await published(bench, EXPLODE, {**REJECTING, "prompt": "{{ parts }}"})
    counts = manifest.counts
    assert table.height == 22
    assert (counts.rows_in, counts.ok, counts.rejected, counts.filtered, counts.out) == (12, 7, 4, 1, 22)


async def test_parts_of_a_row_are_one_row_behind_the_barrier_too(bench: Bench) -> None:
    bench.write(rows(12).with_columns(pl.Series("parts", [["a", "b", "c"]] * 11 + [[]])))
    manifest, table = await published(bench, EXPLODE, EXTRACT, sql("SELECT id, n FROM rows WHERE n > 0 AND id < 9"))
    counts = manifest.counts
    assert (table.height, counts.ok, counts.filtered) == (18, 9, 3)


async def test_duplicates_are_found_across_batches(bench: Bench) -> None:
    text = "This parcel came broken and I want my money back as soon as you can do it, number {}"
    bench.write(pl.DataFrame({"id": range(40), "text": [text.format(at % 2 * 1000) for at in range(40)]}))
    stage = {"name": "twice", "uses": "dedupe", "with": {"on": ["text"], "threshold": 1.0, "keep": "first"}}
    manifest, table = await published(bench, EXTRACT, stage)
    assert table["id"].to_list() == [0, 1]
    assert (manifest.counts.ok, manifest.counts.filtered) == (2, 38)


async def test_a_sample_of_a_partition_has_so_many_rows_and_always_the_same(bench: Bench) -> None:
    bench.write(rows(45))
    stage = {"name": "some", "uses": "sample", "scope": "partition", "with": {"rows": 6}}
    first, table = await published(bench, EXTRACT, stage)
    assert (table.height, first.counts.filtered) == (6, 39)
    bench.write(rows(45).sample(fraction=1, shuffle=True, seed=1))
    _, other = await published(bench, EXTRACT, stage)
    assert set(other["id"]) == set(table["id"])


async def test_a_stage_by_batches_may_follow_behind_the_barrier(bench: Bench) -> None:
    bench.write(rows(30))
    later = {"name": "later", "uses": "sql", "query": "SELECT id, id * 2 AS twice FROM rows WHERE id < 5"}
    manifest, table = await published(bench, EXTRACT, sql("SELECT * FROM rows WHERE id > 1"), later)
    assert table.rows() == [(2, 4), (3, 6), (4, 8)]
    assert (manifest.counts.ok, manifest.counts.filtered) == (3, 27)


async def test_the_same_rows_give_the_same_bytes(bench: Bench) -> None:
    bench.write(rows(45))
    stages = [EXTRACT, sql("SELECT level, count(*) AS n, min(id) AS first FROM rows GROUP BY level, id % 7")]
    one = await bench.one(bench.job(stages=stages))
    two = await bench.one(bench.job(stages=stages, limits={"batch_rows": 3}), reprocess="all")
    assert one.content_digest == two.content_digest


async def test_a_check_between_stages_keeps_bad_rows_from_the_next(bench: Bench) -> None:
    bench.write(rows(30))
    check = {"name": "sane", "uses": "checks", "with": {"rules": [{"name": "low", "sql": "id < 25"}]}}
    manifest, table = await published(bench, check, EXTRACT)
    assert (table.height, manifest.counts.rejected, manifest.usage.calls) == (25, 5, 25)
    rejects = pl.read_parquet(bench.store.get(manifest.rejects[0].key))
    assert rejects.select("stage", "error", "message").unique().rows() == [
        ("sane", "low", "the check 'low' does not hold")
    ]


async def test_a_partition_without_rows_passes_too(bench: Bench) -> None:
    bench.write(rows(1).clear())
    twins = {"name": "twins", "uses": "dedupe", "with": {"on": ["text"]}}
    grouped = {"name": "count", "uses": "aggregate", "with": {"by": ["level"], "columns": {"n": "count(*)"}}}
    manifest, table = await published(bench, EXTRACT, twins, sql("SELECT * FROM rows WHERE id > 1"), grouped)
    assert (table.height, table.columns, manifest.counts.rows_in) == (0, ["level", "n"], 0)
