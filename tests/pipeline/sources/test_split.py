"""Every row is in exactly one partition, in order."""

# ruff: noqa: DTZ001 - naive times are part of the subject

import datetime as dt
import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources import readers
from schemas.errors import SourceError
from schemas.partition_keys import parse_partition_key
from tests.pipeline.sources.reading import frames, refusal, rows, save, snap, write

MOMENTS = st.datetimes(dt.datetime(2026, 10, 20), dt.datetime(2026, 11, 5))
ZONES = st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
WORDS = st.sampled_from(["a", "B", "a/b", "é", "_x", "a=b", "%", " ", "..", "日本", "a\nb", '"', ","])
PARTITIONS = st.one_of(
    st.tuples(st.sampled_from(["hour", "day", "week", "month"]), ZONES, st.sampled_from(["naive", "aware"])).map(
        lambda x: {"by": "time", "every": x[0], "zone": x[1], "column": x[2], "nulls": "own"}
    ),
    st.sampled_from(["word", "number", "flag", "date"]).map(
        lambda name: {"by": "column", "column": name, "nulls": "own"}
    ),
    st.integers(1, 40).map(lambda count: {"by": "rows", "rows": count}),
    st.integers(1, 3).map(lambda count: {"by": "files", "files": count}),
    st.just({"by": "hive"}),
)
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), MOMENTS), st.one_of(st.none(), MOMENTS), st.one_of(st.none(), WORDS),
        st.one_of(st.none(), st.integers(-3, 3)), st.one_of(st.none(), st.booleans()),
    ),
    max_size=30,
)  # fmt: skip


def typed(at: int, drawn: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """One file's rows; `id` numbers them over all files."""
    schema: dict[str, Any] = {
        "id": pl.Int64, "naive": pl.Datetime("us"), "aware": pl.Datetime("us", "UTC"), "word": pl.String,
        "number": pl.Int64, "flag": pl.Boolean, "date": pl.Date,
    }  # fmt: skip
    records = [
        (at * 1000 + n, naive, aware and aware.replace(tzinfo=dt.UTC), *rest, naive and naive.date())
        for n, (naive, aware, *rest) in enumerate(drawn)
    ]
    return pl.DataFrame(records, schema=schema, orient="row")


@settings(max_examples=50, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3), PARTITIONS, st.sampled_from(["parquet", "csv", "ndjson"]))
def test_every_row_is_in_exactly_one_partition_in_order(drawn: list[Any], partition: dict[str, Any], kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        files = [typed(at, some) for at, some in enumerate(drawn)]
        for at, frame in enumerate(files):
            save(frame, base / f"in/k={at % 2}/f{at}.{kind}", kind)
        if kind != "parquet" and not any(frame.height for frame in files) and kind == "ndjson":
            return  # no line at all: "all files are empty" has a test of its own
        given_types = {"naive": "datetime", "aware": "datetime", "number": "int", "flag": "bool", "date": "date"}
        columns = {**given_types, "word": "str", "id": "int"} if kind == "csv" else {}
        everything = sorted(files, key=lambda frame: 0)
        if kind == "ndjson" and partition["by"] in ("time", "column"):
            present = {name for frame in files for name in frame.columns if frame[name].null_count() < frame.height}
            if partition["column"] not in present:
                return  # a column without any value has no type
        found = snap(base, "in", partition, columns=columns)
        parts = frames(found, batch=3)
        ids = [value for frame in parts.values() for value in frame["id"].to_list()]
        order = [value for at in range(2) for n, frame in enumerate(everything) if n % 2 == at for value in frame["id"]]
        assert sorted(ids) == sorted(order)
        for frame in parts.values():
            places = [order.index(value) for value in frame["id"]]
            assert places == sorted(places)
        if partition["by"] == "rows":
            assert all(frame.height <= partition["rows"] for frame in parts.values())
        if partition["by"] == "column":
            _agree(parts, partition["column"])


def _agree(parts: dict[str, pl.DataFrame], column: str) -> None:
    """All rows of a partition have the value that its key says."""
    for key, frame in parts.items():
        (_, said), values = parse_partition_key(key)[0], frame[column].unique().to_list()
        assert len(values) == 1
        assert said == (None if values[0] is None else str(values[0]).lower() if column == "flag" else str(values[0]))


@pytest.mark.parametrize(
    ("partition", "keys"),
    [
        ({"by": "time", "column": "t", "every": "day"}, ["day=2026-11-01", "day=2026-11-02"]),
        ({"by": "time", "column": "t", "every": "hour"}, ["hour=2026-11-01T05Z", "hour=2026-11-02T06Z"]),
        ({"by": "time", "column": "t", "every": "week"}, ["week=2026-W44", "week=2026-W45"]),
        ({"by": "time", "column": "t", "every": "month"}, ["month=2026-11"]),
        ({"by": "column", "column": "c"}, ["c=012", "c=a%20b"]),
        ({"by": "rows", "rows": 1}, ["block=000000", "block=000001"]),
        ({"by": "files"}, ["file=k%3D1%2Fa%2520b.csv"]),
        ({"by": "hive"}, ["k=1"]),
    ],
)
def test_partition_keys_are_as_designed(tmp_path: Path, partition: dict[str, Any], keys: list[str]) -> None:
    (tmp_path / "in/k=1").mkdir(parents=True)
    (tmp_path / "in/k=1/a%20b.csv").write_text("t,c\n2026-11-01T05:30:00Z,012\n2026-11-02T06:00:00Z,a b\n")
    assert snap(tmp_path, "in", partition).partitions == keys


def test_a_key_that_collides_with_a_column_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("day,block,file\n2026-11-01,x,y\n")
    assert snap(tmp_path, "in.csv", {"by": "time", "column": "day"}).partitions == ["day_key=2026-11-01"]
    assert snap(tmp_path, "in.csv", {"by": "rows"}).partitions == ["block_key=000000"]
    assert snap(tmp_path, "in.csv").partitions == ["file_key=in.csv"]


def test_a_null_in_the_partition_column_is_an_error_or_a_partition(tmp_path: Path) -> None:
    data = "t,a\n2026-11-01,1\n,2\n"
    by = {"by": "time", "column": "t"}
    assert "is null in 1 row(s)" in refusal(tmp_path, data, partition=by)
    found = snap(tmp_path, "in.csv", {**by, "nulls": "own"})
    assert found.partitions == ["day=2026-11-01", "day=__HIVE_DEFAULT_PARTITION__"]


def test_hive_levels_become_columns_and_keep_their_names(tmp_path: Path) -> None:
    write(tmp_path / "in/year=2026/lang=a%20b/x.parquet", {"v": [1, 2]})
    write(tmp_path / "in/year=2025/lang=fr/x.parquet", {"v": [3]})
    found = snap(tmp_path, "in", {"by": "hive"})
    assert found.info.key_columns == ("year", "lang")
    assert {key: frame.to_dicts() for key, frame in frames(found).items()} == {
        "year=2025/lang=fr": [{"v": 3, "year": "2025", "lang": "fr"}],
        "year=2026/lang=a%20b": [{"v": 1, "year": "2026", "lang": "a b"}, {"v": 2, "year": "2026", "lang": "a b"}],
    }
    write(tmp_path / "in/year=2024/x.parquet", {"v": [4]})
    with pytest.raises(SourceError, match="lies in year/lang, others in year"):
        snap(tmp_path, "in", {"by": "hive"})


def test_a_hive_folder_of_nulls_is_an_error_or_a_partition(tmp_path: Path) -> None:
    write(tmp_path / "in/k=__HIVE_DEFAULT_PARTITION__/x.parquet", {"v": [1]})
    with pytest.raises(SourceError, match="folder of nulls"):
        snap(tmp_path, "in", {"by": "hive"})
    assert rows(snap(tmp_path, "in", {"by": "hive", "nulls": "own"})) == [{"v": 1, "k": None}]


def test_equal_input_has_equal_keys_and_fingerprints_wherever_it_lies(tmp_path: Path) -> None:
    data = "t,a\n" + "".join(f"2026-11-{day:02d},{day * hour}\n" for hour in range(50) for day in range(1, 28))
    by = {"by": "time", "column": "t"}
    found = []
    for place, name in [("one", "in.csv"), ("two", "renamed.csv"), ("three", "in.csv.gz")]:
        (tmp_path / place).mkdir()
        (tmp_path / place / name).write_bytes(gzip.compress(data.encode()) if name.endswith("gz") else data.encode())
        found.append(snap(tmp_path / place, name, by).entries.select("partition", "rows", "fingerprint"))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_a_fingerprint_changes_with_a_value_a_type_the_order_and_a_column(tmp_path: Path) -> None:
    fingerprints = []
    for at, data in enumerate(
        ["a,b\n1,2\n3,4\n", "a,b\n1,2\n3,5\n", "a,b\n3,4\n1,2\n", "b,c\n1,2\n3,4\n", "a,b\n1,2\n3,4.0\n"]
    ):
        (tmp_path / f"{at}.csv").write_text(data)
        fingerprints += snap(tmp_path, f"{at}.csv", {"by": "rows"}).entries["fingerprint"].to_list()
    assert len(set(fingerprints)) == 5


def test_staged_and_referenced_rows_have_one_fingerprint(tmp_path: Path) -> None:
    table = {"t": [dt.date(2026, 11, 1 + n // 50) for n in range(200)], "v": list(range(200))}
    write(tmp_path / "small.parquet", table, row_group_size=30)
    write(tmp_path / "again.parquet", table)
    by = {"by": "time", "column": "t"}
    referenced = snap(tmp_path, "small.parquet", by)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "MAX_GROUP_ROWS", 100)
        staged = snap(tmp_path, "again.parquet", by)
    assert [referenced.info.files[0].staged, staged.info.files[0].staged] == [False, True]
    assert referenced.entries["fingerprint"].to_list() == staged.entries["fingerprint"].to_list()
