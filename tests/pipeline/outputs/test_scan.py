"""What readers get: exactly the committed files, typed keys, one schema; and a clear word when they were too slow."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from pipeline.consume import GenerationSuperseded, dataset, files, head, manifests, scan, wait_for
from pipeline.operations.repair import Damage, rebuild
from pipeline.planning.job import Job
from pipeline.sinks.schema import load_schema
from pipeline.stores import LocalStore, open_store
from schemas import ids
from schemas.errors import TandemError, UsageError
from tests.harness.servers import SeaweedS3
from tests.pipeline.jobs import EXTRACT, Bench, rows
from tests.pipeline.publishing.test_publish import with_output

FILE = "file=rows.parquet"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, LocalStore(tmp_path / "out"))
    bench.write(rows(6))
    return bench


async def test_keys_have_the_sources_types(bench: Bench) -> None:
    frame = pl.DataFrame(
        {"id": range(4), "text": ["a b"] * 4, "size": [7, 7, -3, None], "at": [dt.date(2026, 11, 1)] * 4}
    )
    bench.write(frame)
    await bench.run(bench.job(partition={"by": "column", "column": "size", "nulls": "own"}))
    read = scan(bench.store).sort("id").select("id", "size").collect()
    assert read.rows() == [(0, 7), (1, 7), (2, -3), (3, None)]
    assert read.schema["size"] == pl.Int64
    assert scan(bench.store).filter(pl.col("size") == 7).select(pl.len()).collect().item() == 2
    arrow = dataset(bench.store)
    assert arrow.to_table().sort_by("id")["size"].to_pylist() == [7, 7, -3, None]
    summed = duckdb.sql("SELECT sum(size) FROM arrow")
    assert summed is not None
    assert summed.fetchall() == [(11,)]


async def test_a_day_is_a_date(bench: Bench) -> None:
    await bench.run(bench.job(partition={"by": "time", "column": "at"}))
    assert scan(bench.store).collect()["day"].unique().to_list() == [dt.date(2026, 11, 1)]
    assert dataset(bench.store).to_table()["day"].to_pylist() == [dt.date(2026, 11, 1)] * 6
    sample = head(bench.store, 4)
    assert sample is not None
    assert (sample.height, sample.columns[-1]) == (4, "day")


async def test_a_column_that_came_later_is_null_in_what_was_published_before(bench: Bench) -> None:
    bench.write(rows(3), "one.parquet")
    bench.write(rows(3), "two.parquet")
    source = {"path": "*.parquet"}
    await bench.run(bench.job(source=source, stages=with_output(summary="str")))
    more = bench.job(source=source, stages=with_output(summary="str", score="float"))
    await bench.run(more, partitions=("file=two.parquet",))
    read = scan(bench.store).group_by("file").agg(pl.col("score").null_count()).sort("file").collect()
    assert read.rows() == [("one.parquet", 3), ("rows.parquet", 6), ("two.parquet", 0)]
    assert dataset(bench.store).to_table().num_rows == 12


async def test_a_generation_is_read_until_it_is_removed(bench: Bench) -> None:
    first = await bench.one()
    before = scan(bench.store)
    bench.write(rows(8))
    await bench.one()
    assert not bench.store.head(first.files[0].key), "it is in history"
    assert scan(bench.store).collect().height == 8
    assert scan(bench.store, FILE, generation=1).collect().height == before.collect().height == 6
    assert [file.generation for file in files(bench.store, FILE, generation=1)] == [1]
    with pytest.raises(UsageError, match="no generation 3"):
        files(bench.store, FILE, generation=3)
    bench.write(rows(9))
    await bench.one()
    assert scan(bench.store, FILE, generation=2).collect().height == 8
    with pytest.raises(GenerationSuperseded, match=r"Generation 1 of file=rows\.parquet was superseded"):
        scan(bench.store, FILE, generation=1)
    with pytest.raises(GenerationSuperseded, match=first.files[0].key):
        before.collect()
    with pytest.raises(GenerationSuperseded):
        before.filter(pl.col("id") > 3).select("id").collect(engine="streaming")


async def test_a_partition_is_waited_for(bench: Bench) -> None:
    with pytest.raises(TimeoutError):
        wait_for(bench.store, FILE, timeout_s=0.02, every_s=0.01)
    await bench.one(limit_rows=2)
    with pytest.raises(TimeoutError):
        wait_for(bench.store, FILE, timeout_s=0.02, every_s=0.01)
    await bench.one()
    assert wait_for(bench.store, FILE).generation == 2
    with pytest.raises(TimeoutError):
        wait_for(bench.store, FILE, generation=3, timeout_s=0.02, every_s=0.01)


async def half_changed(bench: Bench, **output: str) -> Job:
    """Publish two files, then one of them again with another output in place of `level`, an int."""
    bench.write(rows(3), "two.parquet")
    source = {"path": "*.parquet"}
    await bench.run(bench.job(source=source, stages=with_output(level="int")))
    job = bench.job(source=source, stages=with_output(**output))
    await bench.run(job, partitions=("file=two.parquet",), new_version=True)
    return job


async def test_a_breaking_change_is_published_as_a_new_version_and_versions_are_not_mixed(bench: Bench) -> None:
    job = await half_changed(bench, level="str")
    with pytest.raises(TandemError, match=r"first is file=rows.parquet.* older than version 2"):
        scan(bench.store)
    await bench.run(job)
    assert scan(bench.store).collect().schema["level"] == pl.String
    assert {manifest.schema_version for manifest in manifests(bench.store)} == {2}


async def test_one_partition_is_read_in_its_own_columns_in_the_middle_of_a_change(bench: Bench) -> None:
    await half_changed(bench, mood="str")
    assert scan(bench.store, FILE).collect_schema()["level"] == pl.Int64
    assert dataset(bench.store, FILE).schema.field("level").type == pa.int64()
    sample = head(bench.store, 2, FILE)
    assert sample is not None
    assert "mood" not in sample.columns
    assert "mood" in scan(bench.store, "file=two.parquet").collect_schema()
    assert len(files(bench.store)) == 2


async def test_a_lost_schema_is_restored_with_the_change_that_is_under_way(bench: Bench) -> None:
    bench.write(rows(3), "two.parquet")
    source = {"path": "*.parquet"}
    await bench.run(bench.job(source=source, stages=with_output(level="int")))
    job = bench.job(source=source, stages=with_output(level="str"))
    await bench.run(job, partitions=("file=two.parquet",), new_version=True)
    before = load_schema(bench.store)
    bench.store.delete([ids.SCHEMA])
    rebuild(job.spec, bench.base, bench.store, Damage((ids.SCHEMA,), (), (), ()))
    assert load_schema(bench.store) == before
    with pytest.raises(TandemError, match=r"1 of 2 .* column 'level' was int64 and is string"):
        scan(bench.store)


async def test_another_partitioning_would_double_the_rows_and_is_refused(bench: Bench) -> None:
    await bench.one(bench.job(partition={"by": "time", "column": "at"}))
    with pytest.raises(TandemError, match=r"partitioned by day \(date32\[day\]\) and would be by month \(string\)"):
        await bench.run(bench.job(partition={"by": "time", "column": "at", "every": "month"}), new_version=True)


async def test_s3_is_read_the_same_way(tmp_path: Path, seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    bucket = seaweed.bucket("consume")
    bench = Bench(tmp_path, open_store(f"s3://{bucket}/{uuid.uuid4().hex}"))
    bench.write(rows(6))
    await bench.one(bench.job(stages=[EXTRACT], partition={"by": "time", "column": "at"}))
    assert scan(bench.store.uri).filter(pl.col("id") >= 2).select(pl.len()).collect().item() == 4
    assert dataset(bench.store.uri).count_rows() == 6
    bench.store.delete([file.key for manifest in manifests(bench.store) for file in manifest.files])
    with pytest.raises(GenerationSuperseded):
        scan(bench.store).collect()
