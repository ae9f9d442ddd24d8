"""Parquet, of any writer."""

# ruff: noqa: DTZ001 - naive times are part of the subject

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import SourceError
from tests.pipeline.sources.reading import frames, refusal, rows, snap, write


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
    with pytest.raises(SourceError, match=r"b\.parquet: column 'a' is string, in files before it int64") as caught:
        snap(tmp_path, "in")
    assert caught.value.hint.endswith("source.columns: {a: str}.")


_D = decimal.Decimal
_NOON = dt.datetime(2026, 11, 1, 12)


@pytest.mark.parametrize("group", [10, 30_000])
@pytest.mark.parametrize(
    ("types", "widest", "values"),
    [
        (["int8", "int64"], "int64", [3, 2**60]),
        (["uint32", "int32"], "int64", [2**32 - 1, -1]),
        (["int32", "int64", "float64"], "double", [1.0, 2.0, 2.5]),
        (["float32", "float64"], "double", [0.5, 0.1]),
        (["int32", pa.decimal128(9, 2)], "decimal128(12, 2)", [_D("7.00"), _D("1.25")]),
        ([pa.decimal128(9, 2), pa.decimal128(12, 4)], "decimal128(12, 4)", [_D("1.2500"), _D("0.1234")]),
        ([pa.timestamp("ms"), pa.timestamp("us")], "timestamp[us]", [_NOON, _NOON]),
        ([pa.list_(pa.int32()), pa.list_(pa.int64())], "list<item: int64>", [[1], [2**40]]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_types_that_widen_between_files_are_read_as_the_widest(
    tmp_path: Path, types: list[Any], widest: str, values: list[Any], group: int
) -> None:
    """In whatever order the files come, referenced where they lie or staged."""
    kinds = [getattr(pa, kind)() if isinstance(kind, str) else kind for kind in types]
    for order in (1, -1):
        folder = tmp_path / f"in{order}"
        for number, (kind, value) in enumerate(list(zip(kinds, values, strict=True))[::order]):
            plain = int(value) if pa.types.is_integer(kind) else value
            table = pa.table({"a": pa.array([plain, None] * (1 if group == 10 else 11_000), kind)})
            write(folder / f"{number}.parquet", table, row_group_size=group)
        found = snap(tmp_path, folder.name)
        assert str(found.schema.field("a").type) == widest
        read = [row["a"] for row in rows(found) if row["a"] is not None]
        assert read[:: 1 if group == 10 else 11_000] == values[::order]
        assert found.info.files[0].staged == (group > 20_000)


def test_a_value_that_the_widest_type_cannot_hold_is_named(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", {"a": [1.5]})
    write(tmp_path / "in/b.parquet", {"a": [7, 2**53 + 1]})
    with pytest.raises(SourceError, match=r"b\.parquet: column 'a': 9007199254740993 is no double") as caught:
        snap(tmp_path, "in")
    assert "source.columns: {a: str}" in caught.value.hint


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
    with pytest.raises(SourceError, match=r"source\.columns\.n = date: the files have int64, which cannot be read"):
        snap(tmp_path, "in.parquet", columns={"n": "date"})
    with pytest.raises(SourceError, match="'01/02/2026' is no date"):
        snap(tmp_path, "in.parquet", columns={"t": "date"})
    with pytest.raises(SourceError, match="'absent', which is no column"):
        snap(tmp_path, "in.parquet", columns={"absent": "date"})


@pytest.mark.parametrize(
    ("given", "value", "kind", "read"),
    [
        ("int", 2.0, pa.float64(), 2), ("int", 5, pa.int32(), 5), ("float", 3, pa.int64(), 3.0),
        ("float", _D("1.25"), pa.decimal128(9, 2), 1.25), ("str", 12, pa.int64(), "12"),
        ("str", True, pa.bool_(), "true"), ("str", dt.date(2026, 11, 1), pa.date32(), "2026-11-01"),
        ("date", _NOON, pa.timestamp("ms"), _NOON.date()),
        ("datetime", _NOON.date(), pa.date32(), _NOON.replace(hour=0)),
    ],
    ids=str,
)  # fmt: skip
def test_a_given_type_holds_for_any_parquet_type(
    tmp_path: Path, given: str, value: Any, kind: pa.DataType, read: Any
) -> None:
    write(tmp_path / "in.parquet", {"a": pa.array([value, None], kind)})
    found = snap(tmp_path, "in.parquet", columns={"a": given})
    assert [row["a"] for row in rows(found)] == [read, None]
    assert not found.info.files[0].staged, "only text has to be parsed first"


def test_a_given_type_holds_where_files_have_text_and_numbers(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", {"a": [1, 2]})
    write(tmp_path / "in/b.parquet", {"a": ["3", None]})
    assert [row["a"] for row in rows(snap(tmp_path, "in", columns={"a": "int"}))] == [1, 2, 3, None]
    assert [row["a"] for row in rows(snap(tmp_path, "in", columns={"a": "str"}))] == ["1", "2", "3", None]


def test_a_value_that_does_not_fit_its_given_type_is_named(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", {"a": [1.0, 2.5, 3.0], "b": [True] * 3})
    write(tmp_path / "in/b.parquet", {"a": ["x"], "b": [True]})
    with pytest.raises(SourceError, match=r"a\.parquet: column 'a': 2\.5 is no int64"):
        snap(tmp_path, "in/a.parquet", columns={"a": "int"})
    with pytest.raises(SourceError, match="'x' is no int"):
        snap(tmp_path, "in/b.parquet", columns={"a": "int"})
    with pytest.raises(SourceError, match="bool, which cannot be read as float"):
        snap(tmp_path, "in/a.parquet", columns={"b": "float"})


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
