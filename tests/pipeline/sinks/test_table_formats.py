"""Delta and Iceberg tables name exactly what the manifests name, whoever tried to write them, when, and how often."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline.consume import manifests
from pipeline.outputs.verify import verify
from pipeline.planning.job import Job
from pipeline.publishing import cleanup
from pipeline.sinks.table_formats import follow as lakes
from pipeline.sinks.table_formats.base import Lake
from pipeline.sinks.table_formats.follow import follow, lake_of
from pipeline.stores import LocalStore, open_store
from schemas import ids
from schemas.errors import StoreError
from schemas.manifest import Manifest
from tests.harness.servers import SeaweedS3
from tests.pipeline.jobs import Bench
from tests.pipeline.publishing.test_publish import with_output

FORMATS = ["delta", "iceberg"]


class Died(BaseException):
    """The process ends here."""


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def bench(tmp_path: Path, form: str) -> Bench:
    bench = Bench(tmp_path, LocalStore(tmp_path / "out"))
    bench.spec = {
        "sink": {"path": "out", "format": form},
        "partition": {"by": "column", "column": "place", "nulls": "own"},
        "source": {"path": "rows.parquet", "key": ["id"]},
    }
    write(bench, 12)
    return bench


def write(bench: Bench, count: int, changed: int = 0) -> None:
    places = ["us/1", "Zürich", None]
    bench.write(
        pl.DataFrame(
            {
                "id": range(count),
                "text": [f"text {n}{' changed' if n < changed else ''}" for n in range(count)],
                "place": [places[n % 3] for n in range(count)],
            }
        )
    )


@contextlib.contextmanager
def opened(bench: Bench, job: Job | None = None) -> Iterator[Lake]:
    lake = lake_of((job or bench.job()).spec, bench.base, bench.store)
    assert lake is not None
    with contextlib.closing(lake):
        yield lake


def read(bench: Bench) -> pa.Table:
    """What the format's own reader reads."""
    with opened(bench) as lake:
        if bench.spec["sink"]["format"] == "delta":
            from deltalake import DeltaTable

            return DeltaTable(lake.uri, storage_options=lake.options).to_pyarrow_table()  # type: ignore[attr-defined]
        return lake.catalog.load_table(lake.name).scan().to_arrow()  # type: ignore[attr-defined]


def rows(bench: Bench) -> list[tuple[Any, ...]]:
    return sorted(pl.DataFrame(read(bench)).select("id", "text", "place").rows())


def wanted(bench: Bench) -> list[tuple[Any, ...]]:
    source = pl.read_parquet(bench.base / "rows.parquet")
    return sorted(source.select("id", "text", "place").rows())


def agree(bench: Bench) -> None:
    with opened(bench) as lake:
        assert lake.all_files() == {file.key for m in manifests(bench.store) for file in m.files}
    assert rows(bench) == wanted(bench)
    assert not bench.keys(ids.LAGGING)


def catch_up(bench: Bench) -> None:
    cleanup.catch_up(bench.store, bench.job().spec, bench.base)


async def test_the_table_is_what_is_published_and_is_replaced_by_partition(bench: Bench) -> None:
    await bench.run()
    agree(bench)
    write(bench, 14, changed=1)
    out = await bench.run()
    assert len(out) == 2, "one changed, one grew, one stayed"
    agree(bench)
    await bench.run(reprocess="all")
    agree(bench)


async def test_columns_are_added_to_the_table(bench: Bench) -> None:
    await bench.run(bench.job(stages=with_output(summary="str")))
    await bench.run(bench.job(stages=with_output(summary="str", tags="list[str]", when="datetime?")))
    agree(bench)


async def test_an_empty_partition_is_in_the_table(bench: Bench) -> None:
    stages = [*with_output(summary="str"), {"name": "none", "uses": "sql", "query": "SELECT * FROM rows WHERE id < 1"}]
    await bench.run(bench.job(stages=stages))
    assert rows(bench) == wanted(bench)[:1]


async def test_a_process_that_died_after_the_commit_is_caught_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the commit and the table's transaction: the next attempt, or the end of any run, mends it."""
    await bench.run()
    write(bench, 12, changed=3)
    real = lakes.follow

    def die(*args: Any, **options: Any) -> None:
        raise Died

    monkeypatch.setattr(lakes, "follow", die)
    with pytest.raises(Died):
        await bench.run()
    monkeypatch.setattr(lakes, "follow", real)
    assert len(bench.keys(ids.LAGGING)) == 1
    assert rows(bench) != wanted(bench)
    (lagging,) = [m for m in manifests(bench.store) if m.generation == 2]
    cleanup.after_commit(bench.job(), bench.store, lagging, dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    assert len(rows(bench)) == 12, "the table's readers keep the files that it still names"
    catch_up(bench)
    await bench.run()
    agree(bench)


async def test_a_killed_transaction_leaves_the_old_or_the_new(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply of the transaction is lost: doing it again changes nothing."""
    await bench.run()
    write(bench, 12, changed=2)
    with opened(bench) as lake:
        kind = type(lake)
    real = kind.replace

    def reply_lost(self: Lake, *args: Any) -> None:
        real(self, *args)
        raise StoreError("the reply was lost")

    monkeypatch.setattr(kind, "replace", reply_lost)
    with pytest.raises(StoreError, match="lost"):
        await bench.run()
    monkeypatch.setattr(kind, "replace", real)
    catch_up(bench)
    await bench.run()
    agree(bench)


async def test_a_zombie_cannot_bring_back_what_was_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It read table and manifest, slept, and writes after the next generation is in the table."""
    with opened(bench) as lake:
        kind = type(lake)
    real = kind.replace
    asleep, awake = threading.Event(), threading.Event()

    def sleepy(self: Lake, version: Any, keys: Any, manifest: Manifest, *rest: Any) -> None:
        if threading.current_thread().name == "zombie" and not asleep.is_set():
            asleep.set()
            awake.wait(20)
        real(self, version, keys, manifest, *rest)

    await bench.run()
    write(bench, 12, changed=1)
    monkeypatch.setattr(lakes, "STATE", SimpleNamespace(table_transactions=contextlib.nullcontext()))
    monkeypatch.setattr(kind, "replace", sleepy)
    monkeypatch.setattr(lakes, "follow", lambda *args: None)
    await bench.run()
    (key,) = [m.partition for m in manifests(bench.store) if m.generation == 2]

    def zombie() -> None:
        with opened(bench) as lake:
            follow(lake, bench.store, key)

    thread = threading.Thread(target=zombie, name="zombie")
    thread.start()
    assert asleep.wait(20)
    write(bench, 12, changed=4)
    monkeypatch.setattr(lakes, "follow", follow)
    await bench.run()
    awake.set()
    thread.join(30)
    assert not thread.is_alive()
    agree(bench)


async def test_partitions_that_commit_at_once_are_all_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lakes, "STATE", SimpleNamespace(table_transactions=contextlib.nullcontext()))
    monkeypatch.setattr(lakes, "follow", lambda *args: None)
    bench.spec = {**bench.spec, "partition": {"by": "column", "column": "id"}}
    job = bench.job()
    await bench.run(job)

    def one(partition: str) -> None:
        with opened(bench, job) as lake:
            follow(lake, bench.store, partition)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(one, [manifest.partition for manifest in manifests(bench.store)]))
    monkeypatch.setattr(lakes, "follow", follow)
    catch_up(bench)  # whoever makes the table marks every partition, some of them after they were followed
    agree(bench)


async def test_a_table_over_what_was_published_before_holds_it_too(bench: Bench) -> None:
    form = bench.spec["sink"]
    bench.spec = {**bench.spec, "sink": {"path": "out"}}
    await bench.run()
    bench.spec = {**bench.spec, "sink": form}
    write(bench, 12, changed=1)
    await bench.run()
    catch_up(bench)
    agree(bench)


async def test_the_same_on_s3(bench: Bench, seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TANDEM_HOME", str(bench.base / "home"))
    bench.store = open_store(f"s3://{seaweed.bucket(f'lakes-{form}')}/{uuid.uuid4().hex}")
    bench.spec = {**bench.spec, "sink": {"path": bench.store.uri, "format": form}}
    await bench.run()
    agree(bench)
    write(bench, 13, changed=2)
    await bench.run()
    agree(bench)
    bench.store.close()


async def test_a_table_that_lags_is_told(bench: Bench) -> None:
    await bench.run()
    with opened(bench) as lake:
        assert not verify(bench.store, lake=lake).problems
        assert not verify(bench.store, "place=us%2F1", lake=lake).problems
        partition = next(manifest for manifest in manifests(bench.store) if manifest.partition == "place=us%2F1")
        version = lake.version(bench.job().columns, bench.job().keys)
        gone = lake.files(version, bench.job().keys, partition.partition)
        lake.replace(version, bench.job().keys, partition, gone, [])
        (problem,) = verify(bench.store, lake=lake).problems
        assert (problem.kind, problem.partition) == ("table", "place=us%2F1")


FORMER = with_output(summary="str", level="int")
PRESENT = with_output(summary="str", level="str", tags="list[str]")


def types(bench: Bench) -> dict[str, str]:
    """The columns that the format's own reader shows."""
    return {
        field.name: str(field.type).replace("large_", "").replace("element", "item") for field in read(bench).schema
    }


async def test_a_change_of_columns_reaches_the_table_at_once_when_all_is_published(bench: Bench) -> None:
    """Until then its readers get the former columns from the former files, whatever is published and settled."""
    drops = [{**FORMER[0], "output": {**FORMER[0]["output"], "gone": "float"}}]
    await bench.run(bench.job(stages=drops))
    before, job = read(bench), bench.job(stages=PRESENT)
    await bench.run(job, partitions=("place=us%2F1",), new_version=True)
    catch_up(bench)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    cleanup.sweep(bench.store, later)
    assert read(bench).sort_by("id").select(before.column_names).equals(before.sort_by("id"))
    with opened(bench, job) as lake:
        found = verify(bench.store, lake=lake)
    assert [problem.kind for problem in found.problems] == ["mixed"]
    assert "2 of 3 partitions" in found.problems[0].message
    assert "tandem run --reprocess all --allow-schema-change" in found.problems[0].message
    await bench.run(job)
    catch_up(bench)
    agree(bench)
    assert types(bench) == {
        "id": "int64", "text": "string", "summary": "string", "level": "string", "tags": "list<item: string>",
        "place": "string",
    }  # fmt: skip
    assert set(read(bench)["level"].to_pylist()) != {None}
    with opened(bench, job) as lake:
        assert not verify(bench.store, lake=lake).problems
    cleanup.sweep(bench.store, later)
    agree(bench)
    write(bench, 13, changed=1)
    await bench.run(bench.job(stages=PRESENT))
    agree(bench)


async def test_a_change_of_columns_that_dies_in_its_transaction_is_carried_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the transaction, or after it and before its marks are gone."""
    await bench.run(bench.job(stages=FORMER))
    await bench.run(bench.job(stages=PRESENT), new_version=True)
    with opened(bench) as lake:
        kind = type(lake)
    real = kind.change_columns

    def dies_before(self: Lake, *args: Any) -> None:
        raise Died

    def dies_after(self: Lake, *args: Any) -> None:
        real(self, *args)
        raise Died

    for die in (dies_before, dies_after):
        monkeypatch.setattr(kind, "change_columns", die)
        with pytest.raises(Died):
            catch_up(bench)
        assert len(bench.keys(ids.LAGGING)) == 3
    monkeypatch.setattr(kind, "change_columns", real)
    catch_up(bench)
    agree(bench)
    assert types(bench)["level"] == "string"


async def test_a_table_that_is_made_in_the_middle_of_a_change_takes_no_former_columns(bench: Bench) -> None:
    form = bench.spec["sink"]
    bench.spec = {**bench.spec, "sink": {"path": "out"}}
    await bench.run(bench.job(stages=FORMER))
    bench.spec = {**bench.spec, "sink": form}
    job = bench.job(stages=PRESENT)
    await bench.run(job, partitions=("place=us%2F1",), new_version=True)
    catch_up(bench)
    assert set(read(bench)["place"].to_pylist()) == {"us/1"}
    await bench.run(job)
    catch_up(bench)
    agree(bench)
