"""Keys: which partition a value belongs to, as readers see it, in every zone and at every change of clocks."""


# ruff: noqa: DTZ001 - naive times are part of the subject

import datetime as dt
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.sources.partitioning import check_partition_column, hive_levels, key_name, keys_of
from schemas.errors import SourceError
from schemas.partition_keys import parse_partition_key
from schemas.spec.sections import Partition

ZONES = ["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]
EVERY = ["hour", "day", "week", "month"]
MOMENTS = st.datetimes(dt.datetime(1980, 1, 1), dt.datetime(2060, 1, 1))
FORMS = {"hour": "%Y-%m-%dT%HZ", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}


def time(every: str, zone: str = "UTC", nulls: str = "error") -> Partition:
    return Partition.model_validate({"by": "time", "column": "t", "every": every, "zone": zone, "nulls": nulls})


def column(nulls: str = "error") -> Partition:
    return Partition.model_validate({"by": "column", "column": "t", "nulls": nulls})


def keys(values: pl.Series, partition: Partition) -> list[str]:
    found: list[str] = keys_of(values.alias("t"), partition, key_name(partition, [])).to_list()
    return found


@pytest.mark.parametrize(
    ("every", "key"),
    [("hour", "hour=2026-11-01T05Z"), ("day", "day=2026-11-01"), ("week", "week=2026-W44"), ("month", "month=2026-11")],
)
def test_keys_of_time_are_as_designed(every: str, key: str) -> None:
    naive = pl.Series([dt.datetime(2026, 11, 1, 5, 59, 59, 999999)], dtype=pl.Datetime("us"))
    assert keys(naive, time(every)) == [key]
    assert keys(naive.dt.replace_time_zone("UTC"), time(every)) == [key]
    if every != "hour":
        assert keys(naive.cast(pl.Date), time(every)) == [key]


@settings(max_examples=60, deadline=None)
@given(st.lists(MOMENTS, min_size=1, max_size=30), st.sampled_from(ZONES), st.sampled_from(EVERY))
def test_an_instant_belongs_to_the_period_of_the_zones_clock(moments: list[dt.datetime], zone: str, every: str) -> None:
    values = pl.Series(moments, dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")
    local = dt.UTC if every == "hour" else ZoneInfo(zone)
    wanted = [f"{every}={moment.replace(tzinfo=dt.UTC).astimezone(local):{FORMS[every]}}" for moment in moments]
    assert keys(values, time(every, zone)) == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(MOMENTS, min_size=1, max_size=30), st.sampled_from(ZONES), st.sampled_from(EVERY))
@example([dt.datetime(2026, 3, 29, 2, 30), dt.datetime(2026, 10, 25, 2, 30)], "Europe/Paris", "hour")
@example([dt.datetime(2026, 10, 4, 2, 15), dt.datetime(2026, 4, 5, 1, 45)], "Australia/Lord_Howe", "hour")
@example([dt.datetime(2011, 12, 30, 0, 0), dt.datetime(2011, 12, 30, 23, 59)], "Pacific/Apia", "hour")
def test_a_naive_time_is_read_by_the_zones_clock(moments: list[dt.datetime], zone: str, every: str) -> None:
    """PEP 495 says the same of times that happen twice (the first) or never (by the clock before the change)."""
    wanted = []
    for moment in moments:
        shown = moment.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(dt.UTC) if every == "hour" else moment
        wanted.append(f"{every}={shown:{FORMS[every]}}")
    assert keys(pl.Series(moments, dtype=pl.Datetime("us")), time(every, zone)) == wanted


def test_no_hour_repeats_when_clocks_go_back() -> None:
    utc = [dt.datetime(2026, 10, 24, 22, tzinfo=dt.UTC) + dt.timedelta(hours=hour) for hour in range(25)]
    values = pl.Series(utc)
    assert len(set(keys(values, time("hour", "Europe/Paris")))) == 25
    assert set(keys(values, time("day", "Europe/Paris"))) == {"day=2026-10-25"}


def test_a_week_belongs_to_the_year_of_its_thursday() -> None:
    days = pl.Series([dt.date(2026, 12, 31), dt.date(2027, 1, 3), dt.date(2027, 1, 4), dt.date(2024, 12, 30)])
    assert keys(days, time("week")) == ["week=2026-W53", "week=2026-W53", "week=2027-W01", "week=2025-W01"]


def test_column_values_of_every_type() -> None:
    assert keys(pl.Series(["fr", "a b/c", "_x", "", "é=%"]), column()) == [
        "t=fr", "t=a%20b%2Fc", "t=%5Fx", "t=", "t=%C3%A9%3D%25",
    ]  # fmt: skip
    assert keys(pl.Series([1, -2]), column()) == ["t=1", "t=-2"]
    assert keys(pl.Series([True, False]), column()) == ["t=true", "t=false"]
    assert keys(pl.Series([dt.date(2026, 11, 1)]), column()) == ["t=2026-11-01"]


@given(st.lists(st.text(max_size=8), min_size=1))
def test_different_texts_never_share_a_partition_and_come_back(values: list[str]) -> None:
    found = keys(pl.Series(values, dtype=pl.String), column())
    assert [parse_partition_key(key)[0][1] for key in found] == values
    assert len(set(found)) == len(set(values))


def test_a_text_that_a_path_would_cut_is_refused_for_it_stands_nowhere_else() -> None:
    with pytest.raises(SourceError, match="too long for a folder's name"):
        keys(pl.Series(["a", "x" * 200]), column())


@pytest.mark.parametrize("partition", [time("day"), column()])
def test_a_null_is_an_error_that_counts_them(partition: Partition) -> None:
    with pytest.raises(SourceError, match="null in 2 row") as caught:
        keys(pl.Series([dt.date(2026, 1, 1), None, None]), partition)
    assert "nulls: own" in caught.value.hint


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([dt.date(2026, 11, 1), None]), pl.Series([None, dt.datetime(2026, 11, 1)]), pl.Series(["a", None]),
        pl.Series([None, 1]), pl.Series([True, None]), pl.Series([None], dtype=pl.String),
    ],
)  # fmt: skip
def test_nulls_have_a_partition_of_their_own_if_asked(values: pl.Series) -> None:
    partition = time("day", nulls="own") if values.dtype.is_temporal() else column("own")
    null = f"{key_name(partition, [])}=__HIVE_DEFAULT_PARTITION__"
    assert [key == null for key in keys(values, partition)] == values.is_null().to_list()


def test_the_text_that_stands_for_null_is_no_null() -> None:
    assert keys(pl.Series(["__HIVE_DEFAULT_PARTITION__", None]), column("own")) == [
        "t=%5F_HIVE_DEFAULT_PARTITION__", "t=__HIVE_DEFAULT_PARTITION__",
    ]  # fmt: skip


def test_no_values_have_no_keys() -> None:
    assert keys(pl.Series([], dtype=pl.Datetime("us")), time("hour", "Europe/Paris")) == []


def test_a_key_that_collides_with_a_column_is_renamed() -> None:
    assert key_name(time("day"), ["a"]) == "day"
    assert key_name(time("day"), ["day", "a"]) == "day_key"
    assert key_name(time("day"), ["day", "day_key"]) == "day_key_key"
    assert key_name(Partition(by="files"), ["file"]) == "file_key"
    assert key_name(Partition(by="rows"), ["block"]) == "block_key"
    assert key_name(column(), ["t"]) == "t"


@pytest.mark.parametrize("kind", [pa.float64(), pa.list_(pa.int64()), pa.binary(), pa.binary(4), pa.time64("us")])
def test_a_column_that_cannot_be_partitioned_by_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(SourceError, match="needs text, int, bool or date"):
        check_partition_column(column(), pa.schema([("t", kind)]))


@pytest.mark.parametrize(("kind", "every"), [(pa.string(), "day"), (pa.int64(), "day"), (pa.date32(), "hour")])
def test_a_time_column_of_the_wrong_type_is_told_how_to_be_read(kind: pa.DataType, every: str) -> None:
    with pytest.raises(SourceError, match=r"partition\.column = 't' is ") as caught:
        check_partition_column(time(every), pa.schema([("t", kind)]))
    assert "source.columns: {t: {type: datetime" in caught.value.hint


def test_an_absent_column_is_told_those_there_are() -> None:
    with pytest.raises(SourceError, match="no such column") as caught:
        check_partition_column(column(), pa.schema([("a", pa.int64()), ("b", pa.int64())]))
    assert "a, b" in caught.value.hint


def test_hive_levels_are_those_of_the_path() -> None:
    assert hive_levels("year=2026/x/month=11/a.parquet") == [("year", "2026"), ("month", "11")]
    assert hive_levels("k=a%20b%2Fc/a.parquet") == [("k", "a b/c")]
    assert hive_levels("k=__HIVE_DEFAULT_PARTITION__/a.parquet") == [("k", None)]
    for path in ("a.parquet", "x/a.parquet", "=1/a.parquet", "k=1"):
        with pytest.raises(SourceError, match="no key=value folder"):
            hive_levels(path)
    with pytest.raises(SourceError, match="too long"):
        hive_levels(f"k={'x' * 200}/a.parquet")
