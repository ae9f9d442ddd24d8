"""A row's fingerprint is its values': the same everywhere, different where they differ."""

import datetime as dt
import subprocess
import sys
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.journal.fingerprints import digests, fingerprints, row_texts

DAY, LONG_AGO = (dt.datetime.fromisoformat(day) for day in ("2026-01-01", "1900-01-01"))  # without a zone


def one(value: Any, data_type: Any = None) -> str:
    return fingerprints(pl.DataFrame({"c": pl.Series([value], dtype=data_type)}), ["c"])[0]


def test_values_that_look_alike_differ() -> None:
    values = [1, "1", 1.0, True, None, "", "null", "-", b"1", dt.date(1970, 1, 2), "None", [1], {"a": 1}, [None], ["1"],
              DAY, DAY.replace(tzinfo=dt.UTC), dt.time(1), dt.timedelta(1)]  # fmt: skip
    assert len({one(value) for value in values}) == len(values)


def test_neighbouring_columns_do_not_run_together() -> None:
    frame = pl.DataFrame({"a": ["xy", "x", "", "xyz", None, "s1:x"], "b": ["z", "yz", "xyz", "", "xyz", ""]})
    assert len(set(fingerprints(frame, ["a", "b"]))) == frame.height


@given(st.lists(st.tuples(st.text() | st.none(), st.text() | st.none()), min_size=1, max_size=8, unique=True))
@settings(max_examples=100, deadline=None)
def test_different_rows_differ(rows: list[tuple[str | None, str | None]]) -> None:
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.String}, orient="row")
    assert len(set(fingerprints(frame, ["a", "b"]))) == len(rows)


def test_order_of_columns_and_other_columns_do_not_matter() -> None:
    frame = pl.DataFrame({"a": [1], "b": ["x"], "other": [3]})
    assert fingerprints(frame, ["b", "a"]) == fingerprints(frame.select("a", "b"), ["a", "b"])


def test_the_name_of_a_column_matters() -> None:
    assert fingerprints(pl.DataFrame({"a": [1]}), ["a"]) != fingerprints(pl.DataFrame({"b": [1]}), ["b"])


def test_floats_go_by_value() -> None:
    assert one(0.0) == one(-0.0)
    assert one(float("nan")) == one(float("nan"))
    assert len({one(float("nan")), one(None, pl.Float64), one(0.0), one(float("inf")), one(-float("inf"))}) == 5
    assert one(0.5, pl.Float32) == one(0.5, pl.Float64)
    assert one([float("nan")]) != one([None], pl.List(pl.Float64))


@pytest.mark.parametrize(
    ("value", "one_type", "other_type"),
    [
        (7, pl.Int8, pl.UInt64),
        ("x", pl.String, pl.Categorical),
        ("x", pl.String, pl.Enum(["x", "y"])),
        (DAY, pl.Datetime("ms"), pl.Datetime("us")),
        (DAY, pl.Datetime("ns"), pl.Datetime("us")),
        (dt.timedelta(seconds=5), pl.Duration("ms"), pl.Duration("us")),
    ],
)
def test_the_width_of_a_type_does_not_matter(value: Any, one_type: Any, other_type: Any) -> None:
    assert one(value, one_type) == one(value, other_type)


@pytest.mark.parametrize(
    ("values", "data_type"),
    [
        ([1, 2, None], pl.Int16),
        ([2**63, 1, None], pl.UInt64),
        ([1.5, float("nan"), None], pl.Float32),
        (["a", "", None], pl.String),
        ([True, False, None], pl.Boolean),
        ([dt.date(2026, 1, 1), dt.date(1, 1, 1), None], pl.Date),
        ([dt.time(1, 2), dt.time(0), None], pl.Time),
        ([DAY, LONG_AGO, None], pl.Datetime("us")),
        ([DAY, LONG_AGO, None], pl.Datetime("us", "Europe/Paris")),
        ([dt.timedelta(1), dt.timedelta(-1), None], pl.Duration),
        ([b"\x00\xff", b"", None], pl.Binary),
        ([Decimal("1.10"), Decimal("-2"), None], pl.Decimal(10, 2)),
        (["x", "y", None], pl.Categorical),
        ([[1, None], [], None], pl.List(pl.Int64)),
        ([[1.0, 2.0], [2.0, 1.0], None], pl.Array(pl.Float64, 2)),
        ([{"a": 1, "b": "x"}, {"a": None, "b": "x"}, None], pl.Struct({"a": pl.Int64, "b": pl.String})),
        ([[{"d": dt.date(2026, 1, 1)}], [{"d": None}], None], pl.List(pl.Struct({"d": pl.Date}))),
    ],
)
def test_every_type_tells_its_values_apart(values: list[Any], data_type: Any) -> None:
    frame = pl.DataFrame({"c": pl.Series(values, dtype=data_type)})
    found = fingerprints(frame, ["c"])
    assert len(set(found)) == len(values)
    assert found == [fingerprints(frame.slice(at, 1), ["c"])[0] for at in range(frame.height)]


def test_a_column_of_nulls_and_no_column_at_all() -> None:
    assert len(set(fingerprints(pl.DataFrame({"c": [None, None]}), ["c"]))) == 1
    assert len(set(fingerprints(pl.DataFrame({"c": [1, 2]}), []))) == 1
    assert fingerprints(pl.DataFrame({"c": []}, schema={"c": pl.String}), ["c"]) == []


def test_digests_are_the_bytes_of_fingerprints_however_many_rows_there_are() -> None:
    rows = 40_000
    frame = pl.DataFrame({"a": range(rows), "b": [None if row % 3 else f"text {row}" for row in range(rows)]})
    for columns in (["a"], ["b", "a"], []):
        assert digests(frame, columns).hex() == "".join(fingerprints(frame, columns))
    assert len(set(fingerprints(frame, ["a", "b"]))) == rows


def test_row_texts_are_unambiguous() -> None:
    frame = pl.DataFrame({"a": ["i1:1", None], "b": [1, 1]})
    assert row_texts(frame, ["a", "b"]).to_list() == ["s4:i1:1i1:1", "-i1:1"]


def test_fingerprints_are_the_same_in_another_process() -> None:
    program = (
        "import polars as pl, datetime as dt; from stages.journal.fingerprints import fingerprints;"
        "f = pl.DataFrame({'a': ['x', None], 'b': [1.5, 2.5], 'c': [dt.date(2026, 1, 1)] * 2,"
        "                  'd': [{'k': [1]}, None]});"
        "print(fingerprints(f, f.columns))"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
            for _ in range(2)]  # fmt: skip
    assert runs[0].stdout == runs[1].stdout
    # Written down: a change here is a change of every journal there is.
    assert runs[0].stdout.split("'")[1] == "5cd11121f53587006b605cfb0929554d"
