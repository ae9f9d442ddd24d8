"""Rows that the first stages leave out are never cut into batches, and everything that is promised of them holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.enrichment import batch_table, selection
from pipeline.estimates.call_count import count_calls
from pipeline.planning.builder import decisions
from pipeline.sources.snapshot import Snapshot
from schemas.errors import DuplicateKeys, PartitionError
from schemas.manifest import Manifest
from schemas.plan import Selection
from stages.contract import ROW, TableStage
from tests.pipeline.jobs import EXTRACT, Bench, rows

COUNT = 6_000
FEW: dict[str, Any] = {"name": "few", "uses": "sql", "query": "SELECT * FROM rows WHERE id % 100 = 7"}
RENAMED: dict[str, Any] = {"name": "shout", "uses": "sql", "query": "SELECT id, upper(text) AS text, at FROM rows"}
RULE: dict[str, Any] = {
    "name": "late", "uses": "checks", "with": {"rules": [{"name": "half", "sql": "id >= 3000", "action": "filter"}]},
}  # fmt: skip
SAMPLE: dict[str, Any] = {"name": "some", "uses": "sample", "with": {"rate": 0.1}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, spec={"source": {"path": "rows.parquet", "key": ["id"]}})
    bench.write(rows(COUNT))
    return bench


def published(bench: Bench, manifest: Manifest) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(bench.store.get(file.key)) for file in manifest.files)


def index(bench: Bench, manifest: Manifest) -> pl.DataFrame:
    assert manifest.index is not None
    return pl.read_parquet(bench.store.get(manifest.index.key))


@pytest.mark.parametrize(
    "stages", [[FEW], [RENAMED, FEW], [RULE, FEW], [SAMPLE, RULE]], ids=["sql", "renamed", "checks", "sample"]
)
async def test_what_is_published_is_what_batches_of_all_rows_would_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: list[dict[str, Any]]
) -> None:
    found = {}
    for way in ("selected", "by batch"):
        bench = Bench(tmp_path, spec={"source": {"path": "rows.parquet", "key": ["id"]}})
        bench.write(rows(COUNT))
        if way == "by batch":
            monkeypatch.setattr(selection, "MOST_BATCH_ROWS", COUNT)
        job = bench.job(stages=[*stages, EXTRACT])
        opened = bench.open(job, bench.plan(job), job.snapshot.partitions[0])
        assert opened is not None
        assert bool(opened.selected) == (way == "selected")
        manifest = await bench.one(job)
        found[way] = manifest, published(bench, manifest), index(bench, manifest)
    (one, data, ids), (other, same, all_ids) = found.values()
    assert one.counts == other.counts
    assert one.counts.rows_in == COUNT
    assert one.content_digest == other.content_digest
    assert data.equals(same)
    assert sorted(ids["row_id"]) == sorted(all_ids["row_id"])
    assert ids["content"].null_count() == one.counts.filtered


async def test_work_is_done_for_rows_that_are_kept_and_not_for_those_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns that decide are read of all rows, and the identity of each is computed once."""
    read: list[tuple[str, ...]] = []
    digested: list[int] = []
    frames, digests = Snapshot.frames, selection.digests

    def noted_frames(self: Snapshot, partition: str, ranges: Any, columns: Any = None) -> Any:
        read.append(tuple(columns or ()))
        return frames(self, partition, ranges, columns)

    def noted_digests(frame: pl.DataFrame, columns: Any) -> bytes:
        digested.append(frame.height)
        return digests(frame, columns)

    monkeypatch.setattr(Snapshot, "frames", noted_frames)
    for module in (selection, batch_table):
        monkeypatch.setattr(module, "digests", noted_digests)
    job = bench.job(stages=[FEW, EXTRACT])
    plan = bench.plan(job, "run-1")
    opened = bench.open(job, plan, job.snapshot.partitions[0])
    assert opened is not None
    assert read == [("id",), ()]
    assert digested == [COUNT]
    assert [batch.rows for batch in opened.batches] == [COUNT // 100]
    await bench.enrich(job, plan, opened)
    assert digested == [COUNT, COUNT // 100]


async def test_removed_counts_rows_that_were_left_out_as_well(bench: Bench) -> None:
    await bench.one(bench.job(stages=[FEW, EXTRACT]))
    bench.write(rows(COUNT).filter(~pl.col("id").is_in([1, 2, 107])))
    again = await bench.one(bench.job(stages=[FEW, EXTRACT]))
    assert (again.counts.rows_in, again.counts.removed, again.counts.ok) == (COUNT - 3, 3, COUNT // 100 - 1)
    assert again.usage.calls == 0


async def test_two_rows_of_one_key_are_refused_though_both_are_left_out(bench: Bench) -> None:
    bench.write(pl.concat([rows(COUNT), rows(10)]))
    job = bench.job(stages=[FEW, EXTRACT])
    with pytest.raises(DuplicateKeys, match="two rows have the key id=0"):
        bench.open(job, bench.plan(job), job.snapshot.partitions[0])


async def test_nothing_is_enriched_where_no_row_is_kept(bench: Bench) -> None:
    manifest = await bench.one(bench.job(stages=[{**FEW, "query": "SELECT * FROM rows WHERE id < 0"}, EXTRACT]))
    assert (manifest.counts.filtered, manifest.counts.out, manifest.usage.calls) == (COUNT, 0, 0)
    assert published(bench, manifest).height == 0


async def test_a_query_that_fails_on_a_row_fails_as_in_its_batch(bench: Bench) -> None:
    """A plan may test rows that an earlier stage leaves out: then batches decide, each in the order of the stages."""
    odd = rows(COUNT).with_columns(word=pl.when(pl.col("id") < 10).then(pl.lit("x")).otherwise(pl.lit("5")))
    bench.write(odd)
    late = {"name": "late", "uses": "sql", "query": "SELECT * FROM rows WHERE id >= 10"}
    cast = {"name": "cast", "uses": "sql", "query": "SELECT * FROM rows WHERE CAST(word AS INT) = 5 AND id % 100 = 7"}
    manifest = await bench.one(bench.job(stages=[late, cast, EXTRACT]))
    assert manifest.counts.ok == COUNT // 100 - 1
    with pytest.raises(PartitionError, match="stage cast: the query failed"):
        await bench.one(bench.job(stages=[cast, EXTRACT]))


async def test_a_plan_counts_the_calls_of_the_rows_that_are_kept(bench: Bench) -> None:
    job = bench.job(stages=[FEW, EXTRACT])
    decided = list(decisions(job, bench.store, Selection(), bench.now()))
    assert count_calls(job, bench.store, decided).calls == (COUNT // 100, COUNT // 100)
    manifest = await bench.one(job)
    assert manifest.usage.calls == COUNT // 100
    more = pl.concat([rows(COUNT), rows(COUNT + 100).tail(100)])
    bench.write(more.with_columns(text=pl.when(pl.col("id").is_in([7, 8])).then(pl.lit("new")).otherwise("text")))
    job = bench.job(stages=[FEW, EXTRACT])
    counted = count_calls(job, bench.store, list(decisions(job, bench.store, Selection(), bench.now())))
    assert counted.calls == (2, 2)
    assert (counted.changes.new, counted.changes.changed, counted.changes.unchanged) == (100, 1, COUNT - 1)


async def test_large_row_groups_are_not_copied_before_they_are_read(bench: Bench) -> None:
    """Nor are batches read from them: what is kept, most of the rows here, is copied once."""
    many = 45_000
    rows(many).write_parquet(bench.base / "rows.parquet", row_group_size=many)
    most = {"name": "most", "uses": "sql", "query": "SELECT * FROM rows WHERE id > 10"}
    job = bench.job(stages=[most, EXTRACT])
    assert not any(file.staged for file in job.snapshot.info.files)
    opened = bench.open(job, bench.plan(job), job.snapshot.partitions[0])
    assert opened is not None
    assert sum(batch.rows for batch in opened.batches) == many - 11
    copies = [pq.ParquetFile(io.BytesIO(bench.store.get(file.key))) for file in opened.selected]
    assert max(one.metadata.row_group(0).num_rows for one in copies) <= 2_000


@pytest.mark.parametrize("stage", [FEW, RENAMED, RULE, SAMPLE], ids=lambda stage: str(stage["uses"]))
def test_a_lazy_stage_keeps_what_it_keeps_of_a_batch(bench: Bench, stage: dict[str, Any]) -> None:
    (built, _) = bench.job(stages=[stage, EXTRACT]).stages
    assert isinstance(built, TableStage)
    assert built.lazily is not None
    frame = rows(2_000).with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64))
    assert built.lazily(frame.lazy()).collect().equals(built.apply(frame))
