"""From staged batches to a committed generation: whole, once, of the declared schema, or not at all."""

from __future__ import annotations

import datetime as dt
import io
import shutil
import uuid
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.enrichment.staging import StagingFolder
from pipeline.outputs.rejects import all_rejects
from pipeline.publishing import cleanup, merge
from pipeline.sinks import commits
from pipeline.sinks.generations import locate
from pipeline.sinks.schema import load_schema
from pipeline.stores import LocalStore, MemoryStore
from schemas import ids
from schemas.errors import (
    ChecksFailed,
    CountsMismatch,
    RejectRateExceeded,
    SchemaChanged,
    SinkError,
    SpecError,
    StoreError,
    TandemError,
)
from schemas.manifest import Manifest
from schemas.staging import Receipt, Refusal
from stages.models.wires.http import close_session
from tests.harness.model_server import ModelServer
from tests.pipeline.jobs import EXTRACT, Bench, rows

FILE = "file=rows.parquet"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.write(rows(25))
    return bench


def table(bench: Bench, manifest: Manifest) -> pa.Table:
    places = [locate(bench.store, file.key) or file.key for file in manifest.files]
    return pa.concat_tables(pq.read_table(io.BytesIO(bench.store.get(place))) for place in places)


def published(bench: Bench) -> list[str]:
    return bench.keys("data/") + bench.keys(ids.COMMITS)


# Counts -------------------------------------------------------------------------------------------------------------


def forged(bench: Bench, folder: str, number: int, digest: str, **changed: Any) -> str:
    """The digest of a stored receipt that says something else."""
    receipt = StagingFolder(bench.store, folder).receipt(number, digest)
    return StagingFolder(bench.store, folder).write_receipt(receipt.model_copy(update=changed))


@pytest.mark.parametrize("wrong", [{"ok": 9}, {"rows_in": 9}, {"rejected": 1}, {"out": 11}, {"rows_in": 11, "ok": 11}])
async def test_counts_add_up_or_nothing_is_published(bench: Bench, wrong: dict[str, int]) -> None:
    job = bench.job(limits={"batch_rows": 10})
    plan = bench.plan(job)
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    receipts = [done.receipt for done in await bench.enrich(job, plan, opened)]
    counts = StagingFolder(bench.store, opened.folder).receipt(0, receipts[0]).counts
    bad = forged(bench, opened.folder, 0, receipts[0], counts=counts.model_copy(update=wrong))
    with pytest.raises(CountsMismatch, match="25 rows in"):
        bench.publish(job, plan, opened, [bad, *receipts[1:]])
    with pytest.raises(CountsMismatch):
        bench.publish(job, plan, opened, receipts[:2])
    assert not published(bench)


async def test_a_receipt_or_a_file_that_is_not_the_staged_one_is_refused(bench: Bench) -> None:
    job = bench.job()
    plan = bench.plan(job)
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    (receipt,) = [done.receipt for done in await bench.enrich(job, plan, opened)]
    key = StagingFolder(bench.store, opened.folder).receipt(0, receipt).data.key
    whole = bench.store.get(key)
    bench.store.put(key, whole[:-1] + b"?")
    with pytest.raises(StoreError, match="not those that were staged"):
        bench.publish(job, plan, opened, [receipt])
    bench.store.put(key, whole)
    receipt_key = ids.staged(opened.folder, 0, "receipt", receipt, "json")
    said = bench.store.get(receipt_key)
    bench.store.put(receipt_key, said + b" ")
    with pytest.raises(TandemError, match="not the one that was reported"):
        bench.publish(job, plan, opened, [receipt])
    assert not published(bench)


# Files --------------------------------------------------------------------------------------------------------------


async def test_the_same_rows_are_the_same_bytes_under_the_same_key_whatever_the_batches(tmp_path: Path) -> None:
    found = []
    for at, size in enumerate((7, 25, 1000)):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        bench = Bench(folder)
        bench.write(rows(25))
        manifest = await bench.one(bench.job(limits={"batch_rows": size}))
        found.append(({file.key for file in manifest.files}, manifest.content_digest))
    assert found[0] == found[1] == found[2]


async def test_groups_of_rows_do_not_depend_on_the_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "GROUP_ROWS", 10)
    manifest = await bench.one(bench.job(limits={"batch_rows": 7}))
    metadata = pq.read_metadata(io.BytesIO(bench.store.get(manifest.files[0].key)))
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [10, 10, 5]


async def test_a_small_file_that_is_made_in_memory_is_the_one_that_would_be_made_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "GROUP_ROWS", 10)
    found = []
    for held in (merge.HELD_BYTES, 0):
        monkeypatch.setattr(merge, "HELD_BYTES", held)
        folder = tmp_path / f"{held}"
        folder.mkdir()
        bench = Bench(folder)
        bench.write(rows(25, blank=3))
        manifest = await bench.one()
        found.append([(file.sha256, file.size, file.rows) for file in (*manifest.files, manifest.index) if file])
    assert found[0] == found[1]
    assert len(found[0]) == 2


async def test_files_are_zstd_with_statistics_and_a_page_index_and_say_who_made_them(bench: Bench) -> None:
    manifest = await bench.one()
    parquet = pq.ParquetFile(io.BytesIO(bench.store.get(manifest.files[0].key)))
    column = parquet.metadata.row_group(0).column(0)
    assert (column.compression, column.is_stats_set) == ("ZSTD", True)
    assert column.has_offset_index
    assert column.has_column_index
    said = orjson.loads(parquet.schema_arrow.metadata[b"tandem"])
    assert (said["pipeline"], said["partition"], said["stages"][0]["models"]) == (
        "tests", FILE, {"main": "offline:lexical"},
    )  # fmt: skip


async def test_a_large_partition_becomes_several_files_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "GROUP_ROWS", 10)
    monkeypatch.setattr(merge, "TARGET_BYTES", 1)
    monkeypatch.setattr(merge, "HELD_BYTES", 0)
    manifest = await bench.one(bench.job(limits={"batch_rows": 10}))
    assert [file.rows for file in manifest.files] == [10, 10, 5]
    assert [ids.parse_part(ids.data_folder(FILE), file.key) for file in manifest.files] == [1, 1, 1]
    assert table(bench, manifest)["id"].to_pylist() == list(range(25))


async def test_columns_have_the_declared_types_also_where_all_is_null_or_nothing_is_left(bench: Bench) -> None:
    many = {
        "text_": "str", "whole": "int", "part": "float", "yes": "bool", "day": "date", "at_": "datetime",
        "tags": "list[str]", "inner": {"type": "fields", "fields": {"a": "int", "b": "date"}},
    }  # fmt: skip
    stage = {**EXTRACT, "output": many}
    types = {
        "text_": pa.string(), "whole": pa.int64(), "part": pa.float64(), "yes": pa.bool_(), "day": pa.date32(),
        "at_": pa.timestamp("us", "UTC"), "tags": pa.list_(pa.string()),
        "inner": pa.struct([("a", pa.int64()), ("b", pa.date32())]),
    }  # fmt: skip
    bench.write(rows(5, blank=5))
    nulls = await bench.one(bench.job(stages=[stage]))
    none = {"name": "none", "uses": "sql", "query": "SELECT * FROM rows WHERE id < 0"}
    empty = await bench.one(bench.job(stages=[stage, none]), reprocess="all")
    for manifest, left in ((nulls, 5), (empty, 0)):
        found = table(bench, manifest)
        assert found.num_rows == left
        # Parquet calls what a list holds `element`.
        kinds = {name: str(found.schema.field(name).type).replace("element", "item") for name in types}
        assert kinds == {name: str(kind) for name, kind in types.items()}
        assert found.select(list(types)).drop_null().num_rows == 0
    assert len(empty.files) == 1
    assert (empty.counts.rows_in, empty.counts.filtered, empty.counts.out) == (5, 5, 0)


@pytest.mark.parametrize("on_reject", ["drop", "null"])
async def test_rejected_rows_are_left_out_or_null_and_are_in_the_rejects(bench: Bench, on_reject: str) -> None:
    bench.write(rows(10, blank=3))
    stage = {**EXTRACT, "when_empty": "reject", "on_reject": on_reject}
    manifest = await bench.one(bench.job(stages=[stage]))
    assert (manifest.counts.ok, manifest.counts.rejected, manifest.counts.add_up) == (7, 3, True)
    found = table(bench, manifest)
    assert found["id"].to_pylist() == list(range(0 if on_reject == "null" else 3, 10))
    assert found["level"].null_count == found.num_rows - 7
    (rejects,) = all_rejects(bench.store)
    assert (rejects.partition, rejects.generation, rejects.rows.height) == (FILE, 1, 3)
    assert [orjson.loads(key)["id"] for key in rejects.rows["key"]] == [0, 1, 2]


def by_region(folder: Path) -> tuple[Bench, list[tuple[int, str]]]:
    """A bench with 30 rows over three regions, and what a reader has to find of them."""
    bench = Bench(folder, LocalStore(folder / "out"), {"partition": {"by": "column", "column": "region"}})
    frame = rows(30).with_columns(region=pl.Series(["EU west", "us/1", "7"] * 10))
    bench.write(frame)
    return bench, sorted(zip(frame["id"], frame["region"], strict=True))


async def test_a_column_key_is_in_the_path_only_and_every_reader_finds_it(tmp_path: Path) -> None:
    sink = tmp_path / "out"
    bench, wanted = by_region(tmp_path)
    out = await bench.run()
    assert set(out) == {"region=EU%20west", "region=us%2F1", "region=7"}
    assert all("region" not in table(bench, p.manifest).column_names for p in out.values() if p.manifest)
    glob = str(sink / "data" / "*" / "*.parquet")
    polars = pl.read_parquet(glob, hive_partitioning=True)
    assert sorted(polars.select("id", pl.col("region").cast(pl.String)).iter_rows()) == wanted
    pandas = pd.read_parquet(sink / "data")
    assert sorted(zip(pandas["id"], pandas["region"].astype(str), strict=True)) == wanted
    arrow = ds.dataset(sink / "data", partitioning="hive", exclude_invalid_files=True).to_table()
    assert sorted(zip(arrow["id"].to_pylist(), arrow["region"].to_pylist(), strict=True)) == wanted
    sql = duckdb.sql(f"SELECT id, region::VARCHAR FROM read_parquet('{glob}', hive_partitioning=true)")
    assert sql is not None
    assert sorted(sql.fetchall()) == wanted
    declared = load_schema(bench.store)
    assert declared is not None
    assert declared.keys == {"region": "string"}


async def test_spark_finds_it_too(tmp_path: Path) -> None:
    """PySpark is too large for the locks: `pip install pyspark` beside them, and Java, to run this."""
    spark_sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed, which is in no lock: it is large")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    bench, wanted = by_region(tmp_path)
    await bench.run()
    spark = spark_sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        found = spark.read.parquet(str(tmp_path / "out" / "data")).select("id", "region").collect()
    finally:
        spark.stop()
    assert sorted((row["id"], row["region"]) for row in found) == wanted


async def test_a_manifest_tells_the_times_of_its_rows(bench: Bench) -> None:
    manifest = await bench.one(bench.job(partition={"by": "time", "column": "at"}))
    (file,) = manifest.files
    assert file.time_min is not None
    assert file.time_max is not None
    assert file.time_max - file.time_min == dt.timedelta(minutes=24)


# What may follow ----------------------------------------------------------------------------------------------------


def with_output(**output: Any) -> list[dict[str, Any]]:
    return [{**EXTRACT, "output": output}]


async def test_only_additive_changes_of_the_schema_are_published(bench: Bench) -> None:
    await bench.one(bench.job(stages=with_output(summary="str", level="int")))
    more = await bench.one(bench.job(stages=with_output(summary="str", level="int", score="float")))
    assert more.generation == 2
    declared = load_schema(bench.store)
    assert declared is not None
    assert (declared.version, declared.columns["score"]) == (2, "double")
    before = published(bench)
    with pytest.raises(
        SchemaChanged, match=r"column 'level' was int64 and is string; column 'score' \(double\) is gone"
    ):
        await bench.run(bench.job(stages=with_output(summary="str", level="str")))
    assert published(bench) == before
    assert load_schema(bench.store) == declared


async def test_what_was_not_published_binds_no_later_publication(bench: Bench) -> None:
    """The first attempt fails its check; the type is then mended, and nothing stands in the way."""
    check = {"name": "never", "sql": "false"}
    with pytest.raises(ChecksFailed):
        await bench.run(bench.job(stages=with_output(level="int"), checks=[check]))
    assert load_schema(bench.store) is None
    assert (await bench.one(bench.job(stages=with_output(level="str")))).generation == 1


async def test_another_pipelines_sink_is_refused_untouched(bench: Bench) -> None:
    await bench.one()
    job = bench.job()
    plan = bench.plan(job, "run-2", reprocess="all")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    receipts = [done.receipt for done in await bench.enrich(job, plan, opened)]
    before = {key: bench.store.get(key) for key in (ids.DATASET, ids.SCHEMA, *published(bench))}
    with pytest.raises(SinkError, match="'tests', not of 'other'"):
        bench.publish(job, plan.model_copy(update={"pipeline": "other"}), opened, receipts)
    with pytest.raises(SinkError):
        bench.job(name="other")
    assert {key: bench.store.get(key) for key in (ids.DATASET, ids.SCHEMA, *published(bench))} == before


async def test_a_blocking_check_keeps_everything_back_and_a_warning_is_written_down(bench: Bench) -> None:
    blocks = [{"name": "few", "sql": "id < 20"}, {"name": "fine", "sql": "id >= 0"}]
    with pytest.raises(ChecksFailed, match=r"check 'few' \(id < 20\): 5 of 25 rows break it"):
        await bench.run(bench.job(checks=blocks, limits={"batch_rows": 10}))
    assert not published(bench)
    warns = [{**check, "severity": "warn"} for check in blocks]
    assert (await bench.one(bench.job(checks=warns))).warnings == ("check 'few' (id < 20): 5 of 25 rows break it",)


async def test_a_check_that_rows_break_names_some_of_them_and_counts_all(bench: Bench) -> None:
    """Of a source with a key; the failure's message, which crosses Temporal, names none."""
    source = {"path": "rows.parquet", "key": ["id"]}
    checks = [{"name": "few", "sql": "id < 12"}, {"name": "late", "sql": "id < 24", "severity": "warn"}]
    with pytest.raises(ChecksFailed) as caught:
        await bench.run(bench.job(checks=checks, source=source, limits={"batch_rows": 10}))
    few, late = caught.value.checks
    assert (few.name, few.severity, few.rows, few.keys) == ("few", "block", 13, ("12", "13", "14", "15", "16"))
    assert (late.name, late.severity, late.rows, late.keys) == ("late", "warn", 1, ("24",))
    assert "tandem partitions show" in caught.value.hint
    assert "24" not in caught.value.message.replace("id < 24", "")
    (said,) = [Refusal.model_validate_json(bench.store.get(key)) for key in bench.keys(ids.STAGING) if "refused" in key]
    assert (said.counts.rows_in, said.counts.ok, said.counts.out, len(said.checks)) == (25, 25, 0, 2)


async def test_checks_may_name_what_only_the_path_holds(bench: Bench) -> None:
    """`by: column`: the partition's own column, of the source's type."""
    bench.write(rows(6).with_columns((pl.col("id") % 2).alias("part")))
    by = {"by": "column", "column": "part"}
    checks = [{"name": "odd", "sql": "part = 1 and id >= 0", "severity": "warn"}]
    job = bench.job(partition=by, checks=checks)
    found = {partition: published.manifest for partition, published in (await bench.run(job)).items()}
    assert [check.rows for check in _of(found["part=0"]).checks] == [3]
    assert _of(found["part=1"]).checks == ()


def _of(manifest: Manifest | None) -> Manifest:
    assert manifest is not None
    return manifest


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("nosuch > 1", "there is no column 'nosuch'"),
        ("sumary = 'x'", "there is no column 'sumary'; did you mean 'summary'"),
        ("id + 1", "is a number, neither true nor false"),
        ("length(summary)", "is a number, neither true nor false"),
        ("summary", "is text, neither true nor false"),
        ("null", "is null, neither true nor false"),
        ("sum(id) > 3", "uses an aggregate"),
        ("row_number() over () > 3", "uses a window function"),
        ("id in (select id from rows)", "uses a subquery"),
        ("id >", "is not valid SQL"),
        ("id > 1, id < 3", "is not one expression"),
        ("summary > 3", "cannot compare string with numeric"),
        ("__tandem_row > 1", "there is no column '__tandem_row'"),
    ],
)
def test_a_condition_that_no_row_could_be_held_against_is_refused_before_any_row(
    bench: Bench, sql: str, sentence: str
) -> None:
    with pytest.raises(SpecError, match=sentence) as caught:
        bench.job(checks=[{"name": "odd", "sql": sql}])
    assert caught.value.message.startswith(f"check 'odd': {sql!r}")
    assert caught.value.places == ((("checks", 0, "sql"), caught.value.message),)
    assert "__tandem" not in caught.value.hint


async def test_too_many_rejects_are_not_published_but_can_be_looked_at(bench: Bench) -> None:
    bench.write(rows(10, blank=3))
    stage = {**EXTRACT, "when_empty": "reject"}
    with pytest.raises(RejectRateExceeded, match=r"3 of 10 rows were rejected, 30\.0%"):
        await bench.run(bench.job(stages=[stage], limits={"max_reject_rate": 0.29}), "run-9")
    assert not published(bench)
    assert bench.keys(ids.rejects_of_run("run-9", FILE))
    assert (await bench.one(bench.job(stages=[stage], limits={"max_reject_rate": 0.3}))).counts.rejected == 3


async def test_rows_that_the_source_no_longer_has_are_counted(bench: Bench) -> None:
    """Without a key, equal rows count each."""
    frame = rows(20)
    bench.write(pl.concat([frame, frame.head(2), frame.head(2)]))
    await bench.one()
    bench.write(pl.concat([frame.slice(5), frame.head(2)]))
    manifest = await bench.one()
    assert manifest.counts.removed == 24 - 17


# Part of the rows ---------------------------------------------------------------------------------------------------


async def test_the_first_rows_never_replace_a_whole_generation_nor_one_that_a_cancel_repeats(bench: Bench) -> None:
    await bench.one()
    bench.write(rows(30))
    (left,) = (await bench.run(limit_rows=5)).values()
    assert (left.manifest, left.counts.rows_in) == (None, 5)
    commits.fence(bench.store, FILE, run="cancelled", pipeline="tests", nonce="n")
    (left,) = (await bench.run(limit_rows=5)).values()
    assert left.manifest is None
    current = commits.current(bench.store, FILE)
    assert current is not None
    assert sum(file.rows for file in current.files) == 25


async def test_a_partial_generation_stays_due_and_is_followed_by_any_other(bench: Bench) -> None:
    first = await bench.one(limit_rows=5)
    assert (first.kind, first.counts.rows_in) == ("partial", 5)
    second = await bench.one(limit_rows=3)
    assert (second.kind, second.counts.rows_in, second.counts.removed) == ("partial", 3, 0)
    commits.fence(bench.store, FILE, run="cancelled", pipeline="tests", nonce="n")
    whole = await bench.one()
    assert (whole.kind, whole.generation, whole.counts.out, whole.counts.removed) == ("published", 4, 25, 0)
    assert not await bench.run()


# After the commit ---------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def aged(tmp_path: Path) -> tuple[Bench, Clock]:
    clock = Clock()
    return Bench(tmp_path, MemoryStore(uuid.uuid4().hex, now=clock), now=clock), clock


async def test_superseded_files_are_kept_for_readers_and_then_swept(aged: tuple[Bench, Clock]) -> None:
    bench, clock = aged
    bench.write(rows(5))
    sink = {"path": "out", "keep_superseded": "15m"}
    first = await bench.one(bench.job(sink=sink))
    clock.now += dt.timedelta(days=1)
    bench.write(rows(6))
    job = bench.job(sink=sink)
    second = await bench.one(job)
    cleanup.after_commit(job, bench.store, second, clock.now + dt.timedelta(minutes=14))
    cleanup.sweep(bench.store, clock.now + dt.timedelta(minutes=14))
    parts = {*(file.key for file in first.files), *(file.key for file in second.files)}
    assert parts <= set(bench.keys("data/")), "however old the file, it was current a moment ago"
    cleanup.sweep(bench.store, clock.now + dt.timedelta(minutes=15))
    left = [key for key in bench.keys("data/") if key.endswith(".parquet")]
    assert left == [file.key for file in second.files]
    assert bench.keys(ids.HISTORY) == [ids.history(file.key) for file in first.files]
    assert not bench.keys(ids.UNSETTLED)


async def test_without_a_time_for_readers_they_go_at_once(aged: tuple[Bench, Clock]) -> None:
    bench, clock = aged
    for count in (5, 6):
        bench.write(rows(count))
        job = bench.job(sink={"path": "out", "keep_superseded": "0s"})
        manifest = await bench.one(job)
        cleanup.after_commit(job, bench.store, manifest, clock.now)
    left = [key for key in bench.keys("data/") if key.endswith(".parquet")]
    assert left == [file.key for file in manifest.files]


async def test_a_repeated_publish_adopts_its_own_commit(bench: Bench) -> None:
    """The reply of the first attempt was lost: the second finds the same content there."""
    job = bench.job()
    plan = bench.plan(job)
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    receipts = [done.receipt for done in await bench.enrich(job, plan, opened)]
    first = bench.publish(job, plan, opened, receipts)
    again = bench.publish(job, plan, opened, receipts)
    assert again.manifest == first.manifest
    assert len(bench.keys(ids.COMMITS)) == 1


def test_a_receipt_knows_its_files(bench: Bench) -> None:
    assert set(Receipt.model_fields) == {
        "batch",
        "data",
        "index",
        "rejects",
        "pending",
        "parked",
        "counts",
        "reuse",
        "damage",
        "shares",
        "answered_by",
    }


# Provenance ---------------------------------------------------------------------------------------------------------

SAID = ["tandem_model", "tandem_prompt_digest", "tandem_enriched_at", "tandem_cost_usd", "tandem_generation"]


async def test_a_row_says_what_made_it(
    bench: Bench, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a call name no model; a reused answer keeps its time and cost; a retried publish its bytes."""
    frame = rows(6, blank=2)
    bench.write(pl.concat([frame, frame.tail(1)]))
    for name, value in model_server.env().items():
        monkeypatch.setenv(name, value)
    sink = {"path": "out", "provenance": "columns"}
    stage = {**EXTRACT, "model": "openai:test-model"}
    job = bench.job(sink=sink, stages=[stage], prices={"openai:test-model": {"input": 1.0, "output": 1.0}})
    plan = bench.plan(job)
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    receipts = [done.receipt for done in await bench.enrich(job, plan, opened)]
    first = bench.publish(job, plan, opened, receipts).manifest
    again = bench.publish(job, plan, opened, receipts).manifest
    assert first is not None
    assert again == first
    assert table(bench, first).column_names[-5:] == SAID
    made = pl.DataFrame(table(bench, first).select(SAID))
    assert made["tandem_model"].to_list() == [None, None, *["openai:test-model"] * 5]
    assert made["tandem_prompt_digest"].n_unique() == 2
    assert made["tandem_cost_usd"].to_list()[:2] == [0.0, 0.0]
    assert (made["tandem_cost_usd"] > 0).sum() == 4, "one of two equal rows was not paid for"
    assert made["tandem_generation"].to_list() == [1] * 7
    second = await bench.one(job, reprocess="all")
    later = pl.DataFrame(table(bench, second).select(SAID))
    assert later["tandem_generation"].to_list() == [2] * 7
    answered = pl.Series([False, False, True, True, True, False, False])
    kept = ["tandem_enriched_at", "tandem_cost_usd", "tandem_model"]
    assert later.filter(answered).select(kept).equals(made.filter(answered).select(kept))
    await close_session()


async def test_provenance_takes_no_name_that_is_there(bench: Bench) -> None:
    bench.write(rows(3).with_columns(tandem_model=pl.lit("mine")))
    with pytest.raises(SpecError, match="adds 'tandem_model', which is a column already"):
        await bench.run(bench.job(sink={"path": "out", "provenance": "columns"}))
