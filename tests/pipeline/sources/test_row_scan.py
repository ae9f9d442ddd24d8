"""The rows of a partition as a lazy plan are the rows that batches read, and no more is read than the plan needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline.sources.row_scan import scan_rows
from pipeline.sources.snapshot import Snapshot
from schemas.staging import RowRange
from tests.pipeline.jobs import nothing
from tests.pipeline.sources.reading import SELECTING, snap, write


def scanned(found: Snapshot, ranges: list[RowRange]) -> pl.LazyFrame:
    return scan_rows(found, found.partitions[0], ranges, "number", nothing)


@pytest.mark.parametrize("group", [7, 100])
def test_a_scan_has_the_rows_of_its_ranges_wherever_their_row_groups_end(tmp_path: Path, group: int) -> None:
    table = pa.table({"a": range(100), "b": pa.array(["x", None] * 50).dictionary_encode()})
    write(tmp_path / "in.parquet", table, row_group_size=group)
    found = snap(tmp_path, "in.parquet")
    for ranges in ([(0, 100)], [(3, 5)], [(98, 2), (0, 1)], [(6, 2), (13, 40)], [(99, 1)], []):
        parts = [RowRange(file=0, start=start, rows=count) for start, count in ranges]
        read = scanned(found, parts).collect()
        assert read.drop("number").equals(found.read(found.partitions[0], parts))
        assert read["number"].to_list() == list(range(read.height))


def test_a_scan_has_the_columns_of_the_path(tmp_path: Path) -> None:
    write(tmp_path / "in/zone=eu/a.parquet", {"a": [1, 2]})
    found = snap(tmp_path, "in", {"by": "hive"})
    plan = scanned(found, list(found.entry(found.partitions[0]).ranges))
    assert plan.select("zone").collect()["zone"].to_list() == ["eu", "eu"]
    assert plan.filter(pl.col("a") == 2).collect().rows() == [(2, "eu", 1)]


def test_only_columns_that_the_plan_needs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in.parquet", {"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]})
    found = snap(tmp_path, "in.parquet")
    read: list[Any] = []
    frames = Snapshot.frames

    def noted(self: Snapshot, partition: str, ranges: Any, columns: Any = None) -> Any:
        read.append(columns)
        return frames(self, partition, ranges, columns)

    monkeypatch.setattr(Snapshot, "frames", noted)
    plan = scanned(found, list(found.entry(found.partitions[0]).ranges))
    assert plan.filter(pl.col("b") > 4).select("number").collect()["number"].to_list() == [1, 2]
    assert plan.select("number").collect().height == 3
    assert plan.select("c").head(2).collect()["c"].to_list() == [7, 8]
    assert read == [["b"], ["a"], ["c"]]


def test_a_selection_reads_the_source_itself_and_has_the_same_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where row groups are too large for batches to begin in the middle of them."""
    write(tmp_path / "in.parquet", {"a": list(range(30_000))}, row_group_size=30_000)
    staged = snap(tmp_path, "in.parquet")
    monkeypatch.setattr("tests.pipeline.sources.reading.STAGES", SELECTING)
    itself = snap(tmp_path, "in.parquet")
    assert [staged.info.files[0].staged, itself.info.files[0].staged] == [True, False]
    assert staged.entries["fingerprint"].to_list() == itself.entries["fingerprint"].to_list()


def test_large_row_groups_with_rows_of_many_partitions_are_split_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.pipeline.sources.reading.STAGES", SELECTING)
    days = [f"d{number % 50:02d}" for number in range(30_000)]
    write(tmp_path / "in.parquet", {"a": list(range(30_000)), "day": days}, row_group_size=30_000)
    assert snap(tmp_path, "in.parquet", {"by": "column", "column": "day"}).info.files[0].staged
