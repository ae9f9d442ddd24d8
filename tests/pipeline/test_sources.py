"""A source as partitions: every row in exactly one, in order, with the value that was written, read at most twice."""

# ruff: noqa: DTZ001 - naive times are part of the subject

import bz2
import datetime as dt
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources import groups, listing, readers, snapshot, text
from pipeline.sources.listing import list_source, translate_glob
from pipeline.sources.snapshot import RowRange, Snapshot
from pipeline.sources.split import snapshot_of
from pipeline.stores import LocalStore, open_store
from schemas.errors import InputChanged, SourceError
from schemas.ids import parse_partition_key
from schemas.loading import spec_from_mapping
from schemas.spec import Source, Spec
from tests.harness.servers import SeaweedS3

STAGES = [{"name": "s", "uses": "sql", "query": "SELECT * FROM rows"}]


def spec_of(path: str, partition: dict[str, Any] | None = None, **source: Any) -> Spec:
    data = {"name": "p", "source": {"path": path, **source}, "stages": STAGES, "sink": {"path": "out"}}
    return spec_from_mapping({**data, "partition": partition or {"by": "files"}}, base=Path())


def snap(
    base: Path,
    path: str,
    partition: dict[str, Any] | None = None,
    *,
    pinned: dict[str, str] | None = None,
    **source: Any,
) -> Snapshot:
    store = open_store(str(base / "_out"))
    return snapshot_of(spec_of(path, partition, **source), base, store, pinned=pinned or {})


def frames(found: Snapshot, batch: int = 1_000_000) -> dict[str, pl.DataFrame]:
    """Each partition as its batches of `batch` rows would read it."""
    out = {}
    for key in found.partitions:
        entry = found.entry(key)
        parts = [found.read(key, some) for some in batches(entry.ranges, batch)] or [found.read(key, [])]
        out[key] = pl.concat(parts)
        assert out[key].height == entry.rows
    return out


def batches(ranges: Sequence[RowRange], size: int) -> list[list[RowRange]]:
    return [
        [RowRange(file=r.file, start=r.start + at, rows=min(size, r.rows - at))]
        for r in ranges
        for at in range(0, r.rows, size)
    ]


def rows(found: Snapshot) -> list[dict[str, Any]]:
    return [row for frame in frames(found).values() for row in frame.to_dicts()]


def csv_rows(base: Path, data: bytes | str, name: str = "in.csv", **source: Any) -> list[dict[str, Any]]:
    (base / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return rows(snap(base, name, **source))


def refusal(base: Path, data: bytes | str, name: str = "in.csv", partition: Any = None, **source: Any) -> str:
    (base / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(SourceError) as caught:
        snap(base, name, partition, **source)
    return str(caught.value)


def write(path: Path, table: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)


# Every row in exactly one partition, in order ----------------------------------------------------------------------

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


def save(frame: pl.DataFrame, path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        frame.write_csv(path)
    elif kind == "ndjson":
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in frame.to_dicts()))
    else:
        frame.write_parquet(path, row_group_size=7)


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
        patch.setattr(readers, "_MAX_GROUP_ROWS", 100)
        staged = snap(tmp_path, "again.parquet", by)
    assert [referenced.info.files[0].staged, staged.info.files[0].staged] == [False, True]
    assert referenced.entries["fingerprint"].to_list() == staged.entries["fingerprint"].to_list()


# CSV ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"id,text\n1,caf\xc3\xa9\n", {}),
        (b"\xef\xbb\xbfid,text\r\n1,caf\xc3\xa9\r\n", {}),
        (b'\xef\xbb\xbf"id","text"\n"1","caf\xc3\xa9"', {}),
        (b"id,text\n1,caf\xe9\n", {"encoding": "cp1252"}),
        ("id,text\n1,café\n".encode("utf-16"), {}),
        ("id,text\n1,café\n".encode("utf-16-le"), {"encoding": "utf-16-le"}),
        ("\ufeffid,text\n1,café\n".encode("utf-16-be"), {"encoding": "utf-16-be"}),
        ("id;text\n1;café\n".encode(), {}),
        ("id\ttext\n1\tcafé\n".encode(), {}),
        ("id|text\n1|café\n".encode(), {}),
        ("id~text\n1~café\n".encode(), {"delimiter": "~"}),
        ("\n\n id , text \n\n1,café\n\n\n".encode(), {}),
        ("id,text\r1,café\r".encode(), {}),
    ],
)
def test_a_csv_of_any_encoding_delimiter_and_line_end(tmp_path: Path, data: bytes, source: dict[str, Any]) -> None:
    assert csv_rows(tmp_path, data, **source) == [{"id": 1, "text": "café"}]


def test_a_delimiter_inside_a_header_or_value_does_not_mislead(tmp_path: Path) -> None:
    data = 'id;"name, first, last";x\n1;"Doe, Jane, M";y\n2;Z;w\n'
    assert csv_rows(tmp_path, data)[0] == {"id": 1, "name, first, last": "Doe, Jane, M", "x": "y"}


@pytest.mark.parametrize(
    ("name", "press"), [("a.csv.gz", gzip.compress), ("a.CSV.BZ2", bz2.compress), ("a.tsv.gz", gzip.compress)]
)
def test_a_compressed_csv_is_read_by_its_ending(tmp_path: Path, name: str, press: Callable[[bytes], bytes]) -> None:
    data = "id\ttext\n1\tx,y\n" if "tsv" in name else 'id,text\n1,"x,y"\n'
    assert csv_rows(tmp_path, press(data.encode()), name) == [{"id": 1, "text": "x,y"}]


def test_a_broken_archive_is_an_error_of_that_file(tmp_path: Path) -> None:
    assert "a.csv.gz" in refusal(tmp_path, gzip.compress(b"id\n1\n" * 10_000)[:-40], "a.csv.gz")
    assert "a.csv.gz" in refusal(tmp_path, b"id\n1\n", "a.csv.gz")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)] * 2),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_csv_writer_quotes_comes_back(values: list[tuple[str, str]], delimiter: str, end: str) -> None:
    import csv

    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "in.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
            writer.writerows([("first\nname", "b,;"), *values])
        found = snap(Path(folder), "in.csv", columns={"first\nname": "str", "b,;": "str"}, delimiter=delimiter)
        assert [tuple(value or "" for value in row.values()) for row in rows(found)] == values


def test_quotes_and_newlines_may_cross_the_blocks_in_which_a_file_is_read(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK_BYTES", 256)
        values = [f'line {n}\n"quoted, {n}"\r\n' + "é" * (n % 40) for n in range(300)]
        data = "id,text,last\n" + "".join(
            f'{n:03d},"{v.replace(chr(34), chr(34) * 2)}",x\n' for n, v in enumerate(values)
        )
        for encoding in ("utf-8", "utf-16", "cp1252"):
            found = csv_rows(tmp_path, data.encode(encoding), f"{encoding}.csv", **_encoding(encoding))
            assert [row["text"] for row in found] == values
            assert [row["id"] for row in found] == [f"{n:03d}" for n in range(300)]


def _encoding(name: str) -> dict[str, str]:
    return {} if name == "utf-8" else {"encoding": name}


@pytest.mark.parametrize("data", ["id,text", "id,text\n", "\ufeffid,text\r\n", "\nid,text\n\n"])
def test_a_header_alone_is_a_partition_without_rows(tmp_path: Path, data: str) -> None:
    (tmp_path / "in.csv").write_text(data)
    for partition in ({"by": "files"}, {"by": "rows"}):
        found = snap(tmp_path, "in.csv", partition)
        (frame,) = frames(found).values()
        assert (frame.columns, frame.height) == (["id", "text"], 0)
    assert snap(tmp_path, "in.csv", {"by": "column", "column": "id"}).partitions == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("id,text\n1,2\n3,4,5\n", "row 3 (the header is row 1) has 3 field(s), the header 2"),
        ("id,text\n1,2\n3\n", "row 3 (the header is row 1) has 1 field(s), the header 2"),
        ("id,id\n1,2\n", "the header has 'id' twice"),
        ("id,,column_2\n1,2,3\n", "the header has 'column_2' twice"),
        ('id,text\n1,"open\n2,x\n3,y\n', "a quote is opened and never closed"),
        ('id,text\n1,"open\n' + "2,x\n" * 20, "a quote is opened and never closed"),
        ("\n\n", "no rows and no header"),
        ("x" * 200_000 + ",b\n1,2\n", "its header"),
        (b"id,text\n1,caf\xe9 cr\xe8me\n", "line 2 is not UTF-8"),
        (b"id,text\n" + b"1,x\n" * 300_000 + b"1,caf\xe9 cr\xe8me\n", "line 300,002 is not UTF-8"),
        ("id,text\n1,x\n".encode("utf-16-le"), "NUL bytes"),
    ],
)
def test_a_csv_that_cannot_be_read_names_file_and_reason(tmp_path: Path, data: bytes | str, said: str) -> None:
    message = refusal(tmp_path, data)
    assert said in message
    assert "in.csv" in message


def test_the_guess_of_an_encoding_is_one_that_reads_the_file(tmp_path: Path) -> None:
    western = "id,text\n" + "1,Le château était fermé – dommage €\n" * 3
    russian = "id,text\n" + "1,Привет мир как твои дела сегодня\n" * 20
    short, wide = b"id,text\n1,caf\xe9\n", "id,text\n1,x\n".encode("utf-16-be")
    cyrillic = russian.encode("cp1251")
    for data, guess in [
        (western.encode("cp1252"), "cp1252"), (short, "cp1252"), (cyrillic, "cp1251"), (wide, "utf-16-be"),
    ]:  # fmt: skip
        assert f"source.encoding: {guess}" in refusal(tmp_path, data)
        assert len(csv_rows(tmp_path, data, encoding=guess)) == data.decode(guess).count("\n") - 1


def test_an_encoding_that_is_none_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    for name in ("nonsense", "hex", "rot13"):
        assert f"source.encoding = {name!r}: no such encoding" in refusal(tmp_path, "id\n1\n", encoding=name)
    assert "line 2 is not cp1252" in refusal(tmp_path, b"id\nab\x81\n", encoding="cp1252")


def test_an_empty_header_cell_gets_the_name_of_its_place(tmp_path: Path) -> None:
    assert csv_rows(tmp_path, "id,, \n1,2,3\n") == [{"id": 1, "column_2": 2, "column_3": 3}]


def test_what_is_null_is_said_by_the_spec(tmp_path: Path) -> None:
    data = 'a,b,c\n1,NA,\n,x,""\n'
    default = [{"a": 1, "b": "NA", "c": None}, {"a": None, "b": "x", "c": None}]
    assert csv_rows(tmp_path, data) == default
    assert csv_rows(tmp_path, data, nulls=["", "NA"])[0]["b"] is None
    assert csv_rows(tmp_path, data, nulls=["NA"])[1] == {"a": "", "b": "x", "c": ""}


@pytest.mark.parametrize(
    ("last", "kind"), [("7", pl.Int64), ("7.5", pl.Float64), ("x", pl.String), ("007", pl.String), ("", pl.Int64)]
)
def test_the_last_row_of_many_counts_as_much_as_the_first(tmp_path: Path, last: str, kind: Any) -> None:
    (tmp_path / "in.csv").write_text("a,b\n" + "5,x\n" * 100_000 + f"{last},x\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK_BYTES", 64 * 1024)
        found = snap(tmp_path, "in.csv", {"by": "rows", "rows": 60_000})
    parts = list(frames(found, 7_000).values())
    assert {frame.schema["a"] for frame in parts} == {kind()}
    assert [frame.height for frame in parts] == [60_000, 40_001]


def test_given_and_pinned_types_are_kept(tmp_path: Path) -> None:
    data = "opened,code,n\n01/02/2026,12,1\n,13,2\n"
    (tmp_path / "in.csv").write_text(data)
    columns = {"opened": {"type": "date", "format": "%d/%m/%Y"}}
    found = snap(tmp_path, "in.csv", columns=columns, pinned={"code": "str", "n": "float", "gone": "int"})
    assert rows(found)[0] == {"opened": dt.date(2026, 2, 1), "code": "12", "n": 1.0}
    assert found.info.types == {"opened": "date", "code": "str", "n": "float"}
    said = refusal(tmp_path, data.replace(",13", "31/02/2026,13"), columns=columns)
    assert "column 'opened': '31/02/2026' is no date with format '%d/%m/%Y'" in said


def test_a_datetime_column_whose_zone_shows_late_has_one_type_throughout(tmp_path: Path) -> None:
    data = "t,a\n" + ",1\n" * 5000 + "2026-11-01T05:00:00+01:00,2\n"
    for columns in ({}, {"t": "datetime"}):
        assert csv_rows(tmp_path, data, columns=columns)[-1]["t"] == dt.datetime(2026, 11, 1, 4, tzinfo=dt.UTC)
    mixed = data + "2026-11-01T05:00:00,3\n"
    assert "'2026-11-01T05:00:00+01:00' is no datetime" in refusal(tmp_path, mixed, columns={"t": "datetime"})


def test_files_with_other_columns_or_another_order_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("a,b\n1,x\n")
    (tmp_path / "in/b.csv").write_text("c,a\ny,2\n")
    (tmp_path / "in/c.csv").write_text("")
    assert rows(snap(tmp_path, "in")) == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": None, "c": "y"}]


# NDJSON ------------------------------------------------------------------------------------------------------------


def test_ndjson_keeps_strings_as_text_and_nested_values_as_json(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "code": "12", "x": {"a": [1, "é"]}, "when": "2026-11-01"}', "", "  ",
        '{"code": "13", "id": 2.5, "flag": true, "empty": ""}', '{"id": null}',
    ]  # fmt: skip
    found = csv_rows(tmp_path, "\ufeff" + "\r\n".join(lines), "in.jsonl")
    nothing = {"code": None, "x": None, "when": None, "flag": None, "empty": None}
    assert found == [
        {**nothing, "id": 1.0, "code": "12", "x": '{"a":[1,"é"]}', "when": dt.date(2026, 11, 1)},
        {**nothing, "id": 2.5, "code": "13", "flag": True, "empty": ""},
        {**nothing, "id": None},
    ]


def test_integers_that_json_readers_round_are_kept(tmp_path: Path) -> None:
    found = csv_rows(tmp_path, '{"a": 12345678901234567890123, "b": 9007199254740993}\n', "in.ndjson")
    assert found == [{"a": "12345678901234567890123", "b": 9007199254740993}]


def test_objects_without_keys_are_rows_of_nulls(tmp_path: Path) -> None:
    assert csv_rows(tmp_path, '{}\n{"a": 1}\n{}\n', "in.ndjson") == [{"a": None}, {"a": 1}, {"a": None}]
    assert "none of its objects has a key" in refusal(tmp_path, "{}\n{}\n", "other.ndjson")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"a": 1}\n\n{"a": }\n', "line 3 is not JSON"),
        ('{"a": 1}\n[1]\n', "line 2 is no JSON object"),
        ('[\n{"a": 1}\n]\n', "jq -c '.[]'"),
        (b'{"a": "\xe9"}\n', "line 1 is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, data: bytes | str, said: str) -> None:
    assert said in refusal(tmp_path, data, "in.ndjson")


def test_ndjson_lines_may_cross_blocks(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK_BYTES", 100)
        data = "".join(json.dumps({"n": n, "t": "é" * (n % 90)}, ensure_ascii=False) + "\n" for n in range(200))
        assert [row["n"] for row in csv_rows(tmp_path, data, "in.ndjson")] == list(range(200))


# Parquet -----------------------------------------------------------------------------------------------------------


def test_parquet_files_with_other_orders_missing_columns_and_nulls_are_one_table(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", {"a": [1], "n": pa.nulls(1)})
    write(tmp_path / "in/b.parquet", {"b": ["x"], "a": [2], "n": ["y"]})
    (tmp_path / "in/c.parquet").write_bytes(b"")
    write(tmp_path / "in/d.parquet", {"a": pa.array([], pa.int64())})
    found = snap(tmp_path, "in")
    assert [str(field.type) for field in found.schema] == ["int64", "string", "string"]
    assert rows(found) == [{"a": 1, "n": None, "b": None}, {"a": 2, "n": "y", "b": "x"}]
    assert len(found.partitions) == 4


def test_files_that_disagree_on_a_type_are_named_with_both(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", {"a": [1]})
    write(tmp_path / "in/b.parquet", {"a": ["x"]})
    with pytest.raises(SourceError, match=r"b\.parquet: column 'a' is string, in files before it int64"):
        snap(tmp_path, "in")


@pytest.mark.parametrize("group", [10, 30_000])
def test_parquet_of_every_type_is_read_in_types_that_readers_know(tmp_path: Path, group: int) -> None:
    moment = dt.datetime(2026, 11, 1, 5, 0, 0, 123456)
    table = pa.table({
        "ns": pa.array([moment, None], pa.timestamp("ns")).cast(pa.int64()).cast(pa.timestamp("ns")),
        "odd": pa.array([1_001, None], pa.timestamp("ns")),
        "paris": pa.array([1_000, None], pa.timestamp("ms", "Europe/Paris")),
        "word": pa.array(["x", None]).dictionary_encode(),
        "list": pa.array([[1_001], None], pa.list_(pa.timestamp("ns"))),
        "struct": pa.array([{"a": 1}, None]),
        "small": pa.array([7, None], pa.int8()),
        "money": pa.array([None, None], pa.decimal128(9, 2)),
        "raw": pa.array([b"\x00\xff", None]),
    })  # fmt: skip
    write(tmp_path / "in.parquet", pa.concat_tables([table] * (12_000 if group > 10 else 3)), row_group_size=group)
    found = snap(tmp_path, "in.parquet")
    assert found.info.files[0].staged == (group > 20_000)
    first, second = rows(found)[:2]
    assert second == dict.fromkeys(table.column_names)
    assert first == {
        "ns": moment, "odd": dt.datetime(1970, 1, 1, 0, 0, 0, 1),
        "paris": dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC), "word": "x",
        "list": [dt.datetime(1970, 1, 1, 0, 0, 0, 1)], "struct": {"a": 1}, "small": 7, "money": None,
        "raw": b"\x00\xff",
    }  # fmt: skip


def test_small_row_groups_in_order_are_referenced_and_others_are_staged(tmp_path: Path) -> None:
    by = {"by": "time", "column": "t", "every": "day"}
    days = [dt.date(2026, 10, 1) + dt.timedelta(days=n // 500) for n in range(10_000)]
    tables: dict[str, dict[str, list[Any]]] = {
        "sorted": {"t": days, "v": list(range(10_000))},
        "mixed": {"t": [days[n * 503 % 10_000] for n in range(10_000)], "v": list(range(10_000))},
    }
    for name, table in tables.items():
        write(tmp_path / f"{name}.parquet", table, row_group_size=1000)
        found = snap(tmp_path, f"{name}.parquet", by)
        assert all(file.staged == (name == "mixed") for file in found.info.files)
        assert len(found.partitions) == 20
        for key, frame in frames(found, 150).items():
            day = dt.date.fromisoformat(key.removeprefix("day="))
            assert frame["v"].to_list() == [v for v, t in zip(table["v"], table["t"], strict=True) if t == day]


@pytest.mark.parametrize("data", [b"not parquet at all", b"PAR1garbagePAR1", b"PAR1"])
def test_an_unreadable_parquet_file_is_named(tmp_path: Path, data: bytes) -> None:
    assert "in.parquet: not readable as Parquet" in refusal(tmp_path, data, "in.parquet")


def test_a_damaged_page_is_an_error_of_that_file(tmp_path: Path) -> None:
    write(tmp_path / "ok.parquet", {"a": [f"{n}" * 5 for n in range(5000)]}, compression="zstd")
    data = bytearray((tmp_path / "ok.parquet").read_bytes())
    data[60:2000] = b"\xff" * 1940
    assert "in.parquet" in refusal(tmp_path, bytes(data), "in.parquet")


def test_a_type_can_be_given_to_text_in_parquet(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", {"t": ["01/02/2026", None], "z": ["2026-11-01T05:00+01:00", None], "n": [1, 2]})
    columns = {"t": {"type": "date", "format": "%d/%m/%Y"}, "z": "datetime", "n": "int"}
    found = snap(tmp_path, "in.parquet", {"by": "time", "column": "t", "nulls": "own"}, columns=columns)
    assert rows(found)[0] == {"t": dt.date(2026, 2, 1), "z": dt.datetime(2026, 11, 1, 4, tzinfo=dt.UTC), "n": 1}
    with pytest.raises(SourceError, match="only text can be given a type"):
        snap(tmp_path, "in.parquet", columns={"n": "date"})
    with pytest.raises(SourceError, match="'01/02/2026' is no date"):
        snap(tmp_path, "in.parquet", columns={"t": "date"})
    with pytest.raises(SourceError, match="'absent', which is no column"):
        snap(tmp_path, "in.parquet", columns={"absent": "date"})


def test_many_small_partitions_do_not_need_a_row_group_each(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", {"k": [n * 7919 % 9973 for n in range(20_000)], "v": list(range(20_000))})
    found = snap(tmp_path, "in.parquet", {"by": "column", "column": "k"})
    assert len(found.partitions) == 9973
    (file,) = found.info.files
    with found.store.open_input(file.uri) as source:
        assert pq.ParquetFile(source).metadata.num_row_groups < 100
    for key in found.partitions[::1000]:
        k = int(key.removeprefix("k="))
        assert found.read(key, found.entry(key).ranges)["v"].to_list() == [
            n for n in range(20_000) if n * 7919 % 9973 == k
        ]


# What there is to read ---------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", ".hidden.csv", "_tmp.csv", "_sub/e.csv", ".git/f.csv",
                 "sub/_SUCCESS", "README.md", "x[1].csv"):  # fmt: skip
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("a\n1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("in", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/*.csv", ["a.csv", "b.csv", "x[1].csv"]),
        ("in/**/*.csv", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/*/*.csv", ["sub/c.csv"]),
        ("in/**", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/?.csv", ["a.csv", "b.csv"]),
        ("in/[!a].csv", ["b.csv"]),
        ("in/[a-b].csv", ["a.csv", "b.csv"]),
        ("in/sub/**/d.csv", ["deep/d.csv"]),
        ("in/x[1].csv", ["x[1].csv"]),
        ("in/a.csv", ["a.csv"]),
        ("in/_tmp.csv", ["_tmp.csv"]),
        ("./in/../in/a.csv", ["a.csv"]),
    ],
)
def test_a_path_is_a_file_a_folder_or_a_glob(tree: Path, path: str, names: list[str]) -> None:
    assert [file.relative for file in list_source(Source(path=path), tree).files] == names


def test_a_glob_matches_like_a_shell() -> None:
    for pattern, name, matches in [
        ("a*b", "a/b", False), ("a?b", "a/b", False), ("a[!x]b", "a/b", False), ("a[^x]b", "a^b", True),
        ("**/b", "b", True),
        ("**/b", "a/c/b", True), ("**/b", "ab", False), ("a**b", "a/x/b", True), ("a.b", "axb", False),
        ("a[b", "a[b", True),
        ("[]]", "]", True), ("a(b)+", "a(b)+", True), ("[.*]", "x", False), ("[.*]", "*", True),
    ]:  # fmt: skip
        assert bool(re.fullmatch(translate_glob(pattern), name)) == matches, (pattern, name)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("absent.csv", "no such file or folder"), ("absent/*.csv", "nothing there"), ("in/*.parquet", "nothing there"),
        ("empty", "nothing there"), ("zero.csv", "the file is empty"), ("zeros", "all files are empty"),
        ("mixed", "several formats (csv, parquet)"), ("in/README.md", "no file of a known ending"),
    ],
)  # fmt: skip
def test_a_source_that_is_not_there_is_one_sentence(tree: Path, path: str, said: str) -> None:
    (tree / "empty/.hidden").mkdir(parents=True)
    for name in ("zero.csv", "zeros/a.csv", "zeros/b.csv", "mixed/a.csv", "mixed/b.parquet"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"a" if name.startswith("mixed") else b"")
    with pytest.raises(SourceError) as caught:
        list_source(Source(path=path), tree)
    assert said in str(caught.value)
    assert repr(path) in str(caught.value)


def test_a_given_format_chooses_among_endings(tree: Path) -> None:
    write(tree / "in/p.parquet", {"a": [1]})
    assert {f.relative for f in list_source(Source(path="in", format="parquet"), tree).files} == {"p.parquet"}
    assert len(list_source(Source(path="in", format="csv"), tree).files) == 5
    assert list_source(Source(path="in/README.md", format="csv"), tree).format == "csv"


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="deep cannot be listed: Permission denied"):
        list_source(Source(path="in"), tree)


def test_links_are_followed_but_not_for_ever(tree: Path) -> None:
    (tree / "in/sub/loop").symlink_to(tree / "in")
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere/z.csv").write_text("a\n1\n")
    (tree / "in/linked").symlink_to(tree / "elsewhere")
    names = [file.relative for file in list_source(Source(path="in"), tree).files]
    assert "linked/z.csv" in names
    assert len(names) == 6
    (tree / "in/gone.csv").symlink_to(tree / "nowhere")
    with pytest.raises(SourceError, match=r"gone\.csv cannot be read"):
        list_source(Source(path="in"), tree)


def test_a_key_that_is_no_column_is_refused_also_where_the_snapshot_is_there(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    snap(tmp_path, "in.csv")
    for key in (["a"], "b"):
        snap(tmp_path, "in.csv", key=key)
    with pytest.raises(SourceError, match=r"source\.key names 'c'") as caught:
        snap(tmp_path, "in.csv", key=["a", "c"])
    assert "a, b" in caught.value.hint


# Changes, and how often a source is read ---------------------------------------------------------------------------


class Counted:
    """Bytes that were read of the source, through `open_file`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self.real = listing.open_file
        for module in (readers, snapshot, text):
            patch.setattr(module, "open_file", self.open)
        groups.GROUPS.clear()
        groups.FOOTERS.clear()

    def open(self, file: Any) -> Any:
        real = self.real(file)
        counted = self

        class Reader:
            closed = False

            def read(self, size: int = -1) -> bytes:
                data: bytes = real.read() if size is None or size < 0 else real.read(size)
                counted.bytes += len(data)
                return data

            def seek(self, offset: int, whence: int = 0) -> int:
                return int(real.seek(offset, whence))

            def tell(self) -> int:
                return int(real.tell())

            def readable(self) -> bool:
                return True

            def seekable(self) -> bool:
                return True

            def close(self) -> None:
                real.close()

        return pa.PythonFile(Reader(), mode="r")


def numbered(count: int) -> dict[str, list[Any]]:
    return {
        "t": [dt.date(2026, 1, 1) + dt.timedelta(days=n // (count // 20)) for n in range(count)],
        "v": [f"{n} {hashlib.sha256(str(n).encode()).hexdigest()}" for n in range(count)],
    }


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet", "large groups", "mixed"])
def test_a_source_is_read_at_most_twice_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = numbered(40_000)
    path = tmp_path / {"csv": "in.csv", "ndjson": "in.ndjson"}.get(kind, "in.parquet")
    if kind in ("csv", "ndjson"):
        save(pl.DataFrame(data), path, kind)
    else:
        data["t"] = [data["t"][n * 503 % 40_000] for n in range(40_000)] if kind == "mixed" else data["t"]
        write(path, data, row_group_size=40_000 if kind == "large groups" else 4_000)
    counted = Counted(monkeypatch)
    found = snap(tmp_path, path.name, {"by": "time", "column": "t"})
    read = frames(found, batch=100)
    assert sum(frame.height for frame in read.values()) == 40_000
    assert counted.bytes <= 2 * path.stat().st_size + 256 * 1024  # and footers


def test_a_listing_that_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    first = snap(tmp_path, "in.csv")
    counted = Counted(monkeypatch)
    monkeypatch.setattr(snapshot, "_loaded", {})
    again = snap(tmp_path, "in.csv")
    assert counted.bytes == 0
    assert again.info == first.info
    assert again.entries.equals(first.entries)
    os.utime(tmp_path / "in.csv", ns=(1, 1))
    assert snap(tmp_path, "in.csv").info.key != first.info.key
    assert counted.bytes > 0


def test_a_referenced_file_that_changes_is_noticed_at_every_read(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", {"a": [1, 2, 3]})
    found = snap(tmp_path, "in.parquet")
    key = found.partitions[0]
    assert found.read(key, found.entry(key).ranges).height == 3
    write(tmp_path / "in.parquet", {"a": [4, 5, 6, 7]})
    with pytest.raises(InputChanged, match=r"in\.parquet changed after it was planned"):
        found.read(key, found.entry(key).ranges)
    (tmp_path / "in.parquet").unlink()
    with pytest.raises(InputChanged):
        found.read(key, found.entry(key).ranges)


def test_a_staged_snapshot_does_not_need_its_source_any_more(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n2\n")
    found = snap(tmp_path, "in.csv")
    (tmp_path / "in.csv").write_text("a\n9\n")
    groups.GROUPS.clear()
    assert rows(found) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", ["in.csv", "in.ndjson", "in.parquet"])
def test_a_file_that_changes_while_it_is_split_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    save(pl.DataFrame({"a": range(100)}), path, path.suffix[1:])

    def touch(count: int) -> None:
        os.utime(path, ns=(count + 5, 5))

    with pytest.raises(InputChanged):
        snapshot_of(spec_of(name), tmp_path, LocalStore(tmp_path / "_out"), pinned={}, note=touch)


def test_ranges_across_groups_and_files_are_read_in_order(tmp_path: Path) -> None:
    for at in range(3):
        write(tmp_path / f"in/{at}.parquet", {"v": list(range(at * 100, at * 100 + 100))}, row_group_size=30)
    found = snap(tmp_path, "in", {"by": "rows", "rows": 1000})
    (key,) = found.partitions
    ranges = [
        RowRange(file=0, start=25, rows=40),
        RowRange(file=2, start=0, rows=0),
        RowRange(file=1, start=99, rows=1),
    ]
    assert found.read(key, ranges)["v"].to_list() == [*range(25, 65), 199]
    assert found.read(key, []).schema == {"v": pl.Int64}
    with pytest.raises(KeyError):
        found.entry("block=000009")


def test_an_absent_sink_folder_and_a_second_process_share_one_snapshot(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    spec, store = spec_of("in.csv"), LocalStore(tmp_path / "_out")
    found = snapshot_of(spec, tmp_path, store, pinned={})
    code = (
        "import sys; from pipeline.sources.snapshot import load; from pipeline.stores import open_store;"
        "s = load(open_store(sys.argv[1]), sys.argv[2]); (key,) = s.partitions;"
        "print(s.read(key, s.entry(key).ranges).to_dicts())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "_out"), found.info.key], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[{'a': 1}]"


MEMORY = """
import resource, sys
from pathlib import Path
from tests.pipeline.test_sources import spec_of
from pipeline.sources.split import snapshot_of
from pipeline.stores import LocalStore
base = Path(sys.argv[1])
by = {"by": "time", "column": "t"}
snapshot_of(spec_of("small.csv", by), base, LocalStore(base / "_out"), pinned={})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = snapshot_of(spec_of("large.csv", by), base, LocalStore(base / "_out"), pinned={})
print(found.info.rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_csv_is_split_in_little_memory(tmp_path: Path) -> None:
    body = "a body of some sixty characters, as long as a short ticket is"
    with (tmp_path / "large.csv").open("w") as file:
        file.write("id,t,body\n")
        file.writelines(f'{n},2026-{1 + n % 12:02d}-{1 + n % 28:02d},"{body} {n}"\n' for n in range(300_000))
    (tmp_path / "small.csv").write_text("id,t,body\n1,2026-01-01,x\n")
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    count, megabytes = map(int, out.stdout.split())
    assert count == 300_000
    assert megabytes < 200


# S3 ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    return seaweed.bucket(f"sources-{uuid.uuid4().hex[:8]}")


def test_objects_are_read_like_files(bucket: str, seaweed: SeaweedS3, tmp_path: Path) -> None:
    client = seaweed.client()
    for at, name in enumerate(["raw/k=1/a.parquet", "raw/k=2/b.parquet", "raw/_tmp/c.parquet", "raw/k=1/.d.parquet"]):
        write(tmp_path / "x.parquet", {"v": [at * 10, at * 10 + 1]})
        client.put_object(Bucket=bucket, Key=name, Body=(tmp_path / "x.parquet").read_bytes())
    client.put_object(Bucket=bucket, Key="one.csv.gz", Body=gzip.compress(b"a,b\n1,x\n"))
    client.put_object(Bucket=bucket, Key="raw/k=1/", Body=b"")
    client.close()
    for path in ("raw/**/*.parquet", "raw", "raw/", "raw/k=?/*.parquet"):
        found = snap(tmp_path, f"s3://{bucket}/{path}", {"by": "hive"})
        assert rows(found) == [{"v": v, "k": k} for v, k in [(0, "1"), (1, "1"), (10, "2"), (11, "2")]]
        assert not found.info.files[0].staged
    assert snap(tmp_path, f"s3://{bucket}/raw/**/b.parquet").partitions == ["file=k%3D2%2Fb.parquet"]
    assert rows(snap(tmp_path, f"s3://{bucket}/one.csv.gz")) == [{"a": 1, "b": "x"}]
    for path in ("absent.csv", "absent/", "raw/*.csv"):
        with pytest.raises(SourceError, match="nothing there"):
            snap(tmp_path, f"s3://{bucket}/{path}")


def test_an_object_that_changes_is_noticed(bucket: str, seaweed: SeaweedS3, tmp_path: Path) -> None:
    client = seaweed.client()
    write(tmp_path / "x.parquet", {"v": [1]})
    client.put_object(Bucket=bucket, Key="a.parquet", Body=(tmp_path / "x.parquet").read_bytes())
    found = snapshot_of(spec_of(f"s3://{bucket}/a.parquet"), tmp_path, open_store(f"s3://{bucket}/sink"), pinned={})
    assert rows(found) == [{"v": 1}]
    write(tmp_path / "x.parquet", {"v": [2]})
    client.put_object(Bucket=bucket, Key="a.parquet", Body=(tmp_path / "x.parquet").read_bytes())
    with pytest.raises(InputChanged):
        rows(found)
    client.delete_object(Bucket=bucket, Key="a.parquet")
    client.close()
    with pytest.raises(InputChanged):
        rows(found)
