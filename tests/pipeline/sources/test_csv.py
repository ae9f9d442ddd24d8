"""CSV, as it is found in the world."""

import bz2
import datetime as dt
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources import csv as text
from tests.pipeline.sources.reading import csv_rows, frames, refusal, rows, snap


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
        patch.setattr(text, "BLOCK_BYTES", 256)
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
        patch.setattr(text, "BLOCK_BYTES", 64 * 1024)
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


def test_the_first_snapshot_serves_when_its_types_are_pinned(tmp_path: Path) -> None:
    """The second run does not read an unchanged source again."""
    (tmp_path / "in.csv").write_text("code,n\n12,1\n13,2\n")
    first = snap(tmp_path, "in.csv")
    assert snap(tmp_path, "in.csv", pinned={**first.info.types, "gone": "int"}).info.key == first.info.key
    assert snap(tmp_path, "in.csv", pinned={"code": "int"}).info.key == first.info.key
    other = snap(tmp_path, "in.csv", pinned={"code": "str", "n": "int"})
    assert (other.info.key, rows(other)[0]) != (first.info.key, rows(first)[0])
    assert rows(other)[0] == {"code": "12", "n": 1}


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
