"""Reports name rows by the key that people know them by."""

from __future__ import annotations

from pathlib import Path

from pipeline.runs.row_names import names_of
from stages.journal.fingerprints import row_ids
from tests.pipeline.jobs import EXTRACT, Bench, rows

FILE = "file=rows.parquet"


async def test_rows_are_named_by_their_key_published_or_rejected(tmp_path: Path) -> None:
    bench, frame = Bench(tmp_path), rows(6, blank=2)
    bench.write(frame)
    stage = {**EXTRACT, "when_empty": "reject"}
    await bench.one(bench.job(source={"path": "rows.parquet", "key": ["id"]}, stages=[stage]), "run-1")
    ids = row_ids(frame, ["id"])
    named = names_of(bench.store, "run-1", {FILE: {ids[0], ids[4], "0" * 32}, "file=none": {ids[1]}})
    assert named == {(FILE, ids[0]): "0", (FILE, ids[4]): "4"}


async def test_key_columns_may_be_in_the_folder_and_several(tmp_path: Path) -> None:
    bench, frame = Bench(tmp_path), rows(4).with_columns(part=rows(4)["id"] % 2)
    bench.write(frame)
    by = {"by": "column", "column": "part"}
    await bench.run(bench.job(source={"path": "rows.parquet", "key": ["part", "id"]}, partition=by), "run-1")
    ids = row_ids(frame, ["part", "id"])
    assert names_of(bench.store, "run-1", {"part=1": {ids[3]}}) == {("part=1", ids[3]): "part=1, id=3"}


async def test_rows_of_a_source_without_a_key_have_no_name(tmp_path: Path) -> None:
    bench, frame = Bench(tmp_path), rows(2)
    bench.write(frame)
    await bench.one(bench.job(), "run-1")
    assert names_of(bench.store, "run-1", {FILE: set(row_ids(frame, frame.columns))}) == {}
