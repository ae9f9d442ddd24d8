"""A plain glob over `data/` gives each row once, whenever it is read, in every reader, whatever happened before."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from pipeline.outputs import scan
from pipeline.outputs.reader import GenerationSuperseded, batches
from pipeline.publishing import cleanup
from pipeline.publishing.rollback import rollback
from pipeline.runs.finalise import finalise
from pipeline.sinks import commits, generations
from pipeline.stores import LocalStore
from schemas import ids
from schemas.errors import CommitConflict, StoreRefused, UsageError
from schemas.manifest import Manifest, named
from schemas.messages.base import RunRef
from schemas.messages.run import FinaliseRequest, Totals
from tests.pipeline.jobs import Bench, rows

FILE = "file=rows.parquet"


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


class KillingStore(LocalStore):
    """A folder whose writer dies right before the operation that `point` names, or may not delete."""

    point: str = ""
    deletes: bool = True

    def put_new(self, key: str, data: bytes) -> None:
        if self.point == "commit" and key.startswith(ids.COMMITS):
            raise Killed
        super().put_new(key, data)

    def copy(self, source: str, target: str) -> None:
        if self.point == "history":
            raise Killed
        super().copy(source, target)

    def delete(self, keys: object) -> None:
        listed = list(keys)  # type: ignore[call-overload]
        if self.point == "delete" and any(key.startswith("data/") for key in listed):
            raise Killed
        if not self.deletes:
            raise StoreRefused("access is denied")
        super().delete(listed)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, KillingStore(tmp_path / "out"))


def killing(bench: Bench) -> KillingStore:
    assert isinstance(bench.store, KillingStore)
    return bench.store


def by_glob(bench: Bench) -> tuple[int, int]:
    """Rows and distinct ids, as all readers see them."""
    folder = f"{bench.store.uri}/data"
    sql = f"SELECT count(*), count(DISTINCT id) FROM read_parquet('{folder}/**/*.parquet')"
    (found,) = duckdb.execute(sql).fetchall()
    frames = (
        pl.read_parquet(f"{folder}/**/*.parquet"),
        pl.from_pandas(pd.read_parquet(folder)[["id"]]),
        pl.DataFrame(ds.dataset(folder, format="parquet").to_table(columns=["id"])),
    )
    for frame in frames:
        assert (frame.height, frame["id"].n_unique()) == found
    return int(found[0]), int(found[1])


def finalised(bench: Bench, run: str, state: str = "completed") -> None:
    """As the end of a run does it."""
    ref = RunRef(pipeline="tests", run=run, sink=bench.store.uri)
    request = FinaliseRequest.model_validate(
        {"ref": ref, "plan": "", "state": state, "totals": Totals(), "failures": (), "stop": None,
         "started_at": dt.datetime.now(dt.UTC)}
    )  # fmt: skip
    finalise(bench.store, request)
    cleanup.sweep(bench.store, dt.datetime.now(dt.UTC), ended=run)


async def killed(bench: Bench, point: str, run: str) -> None:
    killing(bench).point = point
    with pytest.raises(Killed):
        await bench.one(run=run)
    killing(bench).point = ""


async def test_each_rerun_is_read_once_and_leaves_one_earlier_generation(bench: Bench) -> None:
    for at, count in enumerate((6, 6, 8, 5)):
        bench.write(rows(count))
        manifest = await bench.one(reprocess="all" if at == 1 else "stale")
        assert by_glob(bench) == (count, count)
    assert manifest.generation == 4
    assert {info.key.rpartition("-g")[2][0] for info in bench.store.list(ids.HISTORY)} == {"3"}
    assert not bench.keys(ids.UNSETTLED)


@pytest.mark.parametrize("keep", [0, 1, 3])
async def test_as_many_earlier_generations_are_kept_as_the_spec_says(bench: Bench, keep: int) -> None:
    made = []
    for count in range(5, 10):
        bench.write(rows(count))
        made.append(await bench.one(bench.job(sink={"path": "out", "keep_generations": keep})))
    kept = made[len(made) - 1 - keep : -1]
    assert bench.keys(ids.HISTORY) == sorted(ids.history(file.key) for m in kept for file in m.files)
    indexes = {m.index.key for m in (*kept, made[-1]) if m.index is not None}
    assert set(bench.keys(ids.index_folder(FILE))) == indexes


@pytest.mark.parametrize("point", ["history", "delete"])
async def test_a_kill_between_commit_and_clean_up_is_mended_by_the_next_sweep(bench: Bench, point: str) -> None:
    bench.write(rows(6))
    first = await bench.one()
    bench.write(rows(8))
    await killed(bench, point, "killed")
    assert by_glob(bench)[0] == 14, "the kill came in between"
    assert not await bench.run(run="killed"), "nothing is left to do"
    finalised(bench, "killed")
    assert by_glob(bench) == (8, 8)
    assert bench.keys(ids.HISTORY) == [ids.history(file.key) for file in first.files]
    assert not bench.keys(ids.UNSETTLED)


async def test_a_kill_between_upload_and_commit_is_mended_by_the_same_command(bench: Bench) -> None:
    bench.write(rows(6))
    await bench.one()
    bench.write(rows(8))
    await killed(bench, "commit", "killed")
    assert by_glob(bench)[0] == 14
    await bench.one(run="killed")
    assert by_glob(bench) == (8, 8)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_what_a_closed_run_uploaded_and_never_committed_is_fenced_and_removed(bench: Bench, state: str) -> None:
    """Its worker may be frozen between upload and commit: it must not commit what was removed."""
    bench.write(rows(6))
    await bench.one()
    bench.write(rows(8))
    await killed(bench, "commit", "killed")
    cleanup.sweep(bench.store, dt.datetime.now(dt.UTC))
    assert by_glob(bench)[0] == 14, "an open run may be at it"
    finalised(bench, "killed", state)
    assert by_glob(bench) == (6, 6)
    current = commits.current(bench.store, FILE)
    assert current is not None
    assert (current.kind, current.generation) == ("tombstone", 2)


async def test_a_worker_that_is_woken_after_another_published_uploads_nothing(bench: Bench) -> None:
    bench.write(rows(6))
    job = bench.job()
    plan = bench.plan(job)
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    receipts = [done.receipt for done in await bench.enrich(job, plan, opened)]
    bench.write(rows(8))
    await bench.one()
    before = bench.keys("data/")
    with pytest.raises(CommitConflict):
        bench.publish(job, plan, opened, receipts)
    assert bench.keys("data/") == before
    cleanup.sweep(bench.store, dt.datetime.now(dt.UTC))
    assert not bench.keys(ids.UNSETTLED)
    assert by_glob(bench) == (8, 8)


async def test_who_is_overtaken_between_upload_and_commit_removes_what_it_uploaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(rows(6))
    job = bench.job()
    plan = bench.plan(job)
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    receipts = [done.receipt for done in await bench.enrich(job, plan, opened)]
    bench.write(rows(8))
    await bench.one()
    before = bench.keys("data/")
    monkeypatch.setattr(commits, "adoptable", lambda store, draft: None)
    with pytest.raises(CommitConflict):
        bench.publish(job, plan, opened, receipts)
    assert bench.keys("data/") == before


async def test_files_that_stay_for_readers_are_due_when_their_time_is_over(bench: Bench) -> None:
    sink = {"path": "out", "keep_superseded": "1h"}
    for count in (6, 8):
        bench.write(rows(count))
        await bench.one(bench.job(sink=sink))
    now = dt.datetime.now(dt.UTC)
    due = cleanup.sweep(bench.store, now)
    assert due is not None
    assert dt.timedelta(minutes=59) < due - now <= dt.timedelta(hours=1)
    assert generations.any_marked(bench.store)
    assert cleanup.sweep(bench.store, due) is None
    assert by_glob(bench) == (8, 8)


async def test_a_writer_that_may_not_delete_still_publishes_and_says_so(bench: Bench) -> None:
    bench.write(rows(6))
    await bench.one()
    killing(bench).deletes = False
    bench.write(rows(8))
    with pytest.raises(StoreRefused):
        await bench.one()
    assert scan.scan(bench.store).collect().height == 8
    assert generations.any_marked(bench.store)


async def test_an_overtaken_reader_reads_on_from_history(bench: Bench) -> None:
    bench.write(rows(6))
    await bench.one()
    before, listed, arrow = scan.scan(bench.store), scan.parts(bench.store), scan.dataset(bench.store)
    bench.write(rows(8))
    await bench.one()
    assert arrow.to_table()["id"].to_pylist() == list(range(6))
    assert duckdb.execute("SELECT count(*) FROM arrow WHERE id > 2").fetchall() == [(3,)]
    assert before.collect()["id"].to_list() == list(range(6))
    assert sum(batch.num_rows for part in listed[0] for batch in batches(part, listed[1])) == 6
    (file,) = scan.files(bench.store, FILE, generation=1)
    assert Path(file.path).is_relative_to(f"{bench.store.uri}/{ids.HISTORY}")
    assert scan.dataset(bench.store, FILE, generation=1).to_table().num_rows == 6
    bench.write(rows(9))
    await bench.one()
    with pytest.raises(GenerationSuperseded, match="was superseded and removed"):
        arrow.to_table()


# Rolling back -------------------------------------------------------------------------------------------------------


def rolled_back(bench: Bench, to: int | None = None) -> tuple[Manifest, int]:
    return rollback(bench.job().spec, bench.base, bench.store, FILE, to)


async def test_a_rollback_is_a_new_generation_of_the_same_rows(bench: Bench) -> None:
    bench.write(rows(6))
    first = await bench.one()
    bench.write(rows(8))
    second = await bench.one()
    manifest, repeated = rolled_back(bench)
    assert (manifest.generation, repeated, manifest.parent) == (3, 1, 2)
    assert manifest.content_digest == first.content_digest
    assert manifest.usage.calls == 0
    assert by_glob(bench) == (6, 6)
    assert bench.keys(ids.HISTORY) == [ids.history(file.key) for file in second.files]
    assert all(bench.store.head(key) for key in named(manifest))
    assert rolled_back(bench)[1] == 2, "and back again"
    assert by_glob(bench) == (8, 8)


async def test_what_is_gone_cannot_be_rolled_back_to(bench: Bench) -> None:
    bench.write(rows(6))
    await bench.one()
    with pytest.raises(UsageError, match="has no earlier generation"):
        rolled_back(bench)
    for count in (7, 8):
        bench.write(rows(count))
        await bench.one()
    with pytest.raises(UsageError, match=r"Generation 1 .* is gone"):
        rolled_back(bench, to=1)
    for wrong in (3, 9):
        with pytest.raises(UsageError, match=f"--to {wrong}"):
            rolled_back(bench, to=wrong)
    assert by_glob(bench) == (8, 8)


async def test_a_run_after_a_rollback_publishes_the_present_input_without_a_call(bench: Bench) -> None:
    for count in (6, 8):
        bench.write(rows(count))
        await bench.one()
    rolled_back(bench)
    manifest = await bench.one()
    assert (manifest.generation, manifest.usage.calls) == (4, 0)
    assert by_glob(bench) == (8, 8)
