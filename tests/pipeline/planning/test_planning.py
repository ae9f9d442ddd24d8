"""Which partitions, whether and why, and in which batches: decided from values, tried by the thousand."""


# ruff: noqa: DTZ001 - wall clocks are part of the subject

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.planning.batches import MAX_BATCHES, PAGE_PARTITIONS, batch_ranges, batch_rows, cut, pages_of
from pipeline.planning.decide import OutputShape, PartitionInput, decide
from pipeline.planning.selection.calendar import start_of
from pipeline.planning.selection.partitions import select
from pipeline.sinks.commits import commit, fence, read_commit
from pipeline.stores import MemoryStore
from schemas.errors import SpecError, UsageError
from schemas.manifest import Counts, Manifest
from schemas.partition_keys import encode_value
from schemas.plan import Reprocess, Selection

NOW = dt.datetime(2026, 11, 18, 12, 30, tzinfo=dt.UTC)
ORDER: tuple[Reprocess, ...] = ("missing", "failed", "stale", "all")


# Dealing ------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 25))
def test_every_row_is_dealt_once_and_in_order_to_batches_of_one_size(counts: list[int], size: int) -> None:
    total = sum(counts)
    batches = batch_ranges(counts, [min(size, total - at) for at in range(0, total, size)])
    dealt = [(number, row) for batch in batches for number, at, rows in batch for row in range(at, at + rows)]
    assert dealt == [(number, row) for number, count in enumerate(counts) for row in range(count)]
    sizes = [sum(rows for _, _, rows in batch) for batch in batches]
    assert all(found == size for found in sizes[:-1])
    assert all(0 < found <= size for found in sizes[-1:])
    assert all(rows > 0 for batch in batches for _, _, rows in batch)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.booleans(), max_size=200), st.integers(1, 20), st.integers(0, 30), st.integers(0, 60))
def test_rows_are_cut_by_the_work_that_is_left(work: list[bool], size: int, more: int, answered: int) -> None:
    """No batch holds more work than asked, nor more rows than a batch may; none but the last could hold another row."""
    most = size + more
    most_answered = most + answered
    sizes = cut(work, size, most, most_answered)
    assert sum(sizes) == len(work)
    at = 0
    for number, rows in enumerate(sizes):
        busy = sum(work[at : at + rows])
        assert 0 < rows <= (most if busy else most_answered)
        assert busy <= size
        if number < len(sizes) - 1 and busy < size:
            calls = busy or work[at + rows]  # with the next row
            assert rows >= most if calls else rows == most_answered
        at += rows


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 50_000_000), st.one_of(st.none(), st.integers(1, 1_000_000)))
@example(500_000, 1_000)
@example(500_001, 1_000)
def test_a_partition_takes_at_most_500_batches_or_is_refused_with_the_numbers(rows: int, asked: int | None) -> None:
    try:
        size = batch_rows(rows, asked)
    except SpecError as exc:
        assert asked is not None
        assert rows > MAX_BATCHES * asked
        for number in (
            f"limits.batch_rows = {asked}",
            f"{rows:,} rows",
            f"{-(-rows // asked):,} batches",
            "500 batches",
        ):
            assert number in exc.message  # noqa: PT017  both ends are valid here
        advised = int(exc.hint.split("Raise it to ")[1].split(", remove")[0].replace(",", ""))
        assert batch_rows(rows, advised) == advised
        assert -(-rows // (advised - 1)) > MAX_BATCHES, "the least that will do"
    else:
        assert -(-rows // size) <= MAX_BATCHES
        assert asked in (None, size)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 3_000), max_size=700), st.integers(3_000, 60_000))
def test_pages_hold_every_partition_once_in_order_within_their_bytes(sizes: list[int], room: int) -> None:
    pages = pages_of(sizes, room)
    assert [at for page in pages for at in page] == list(range(len(sizes)))
    assert all(page and sum(sizes[at] for at in page) <= room for page in pages)
    assert all(len(page) <= PAGE_PARTITIONS for page in pages)


# Selecting ----------------------------------------------------------------------------------------------------------


def keys_between(every: str, zone: str, first: dt.datetime, last: dt.datetime) -> list[str]:
    """The keys of all instants between two, as sources would make them."""
    forms = {"hour": "%Y-%m-%dT%HZ", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
    clock = dt.UTC if every == "hour" else ZoneInfo(zone)
    found: dict[str, None] = {}
    at = first
    while at < last:
        found[f"{every}={encode_value(at.astimezone(clock).strftime(forms[every]))}"] = None
        at += dt.timedelta(minutes=30)
    return list(found)


def chosen(keys: list[str], every: str | None, zone: str = "UTC", now: dt.datetime = NOW, **asked: Any) -> list[str]:
    return select(keys, Selection(**asked), every=every, zone=zone, now=now)


DAYS = [f"day=2026-11-{day:02d}" for day in range(1, 31)]


def test_without_selectors_everything_is_selected_and_keys_keep_the_sources_order() -> None:
    assert chosen(DAYS, "day") == DAYS
    assert chosen(DAYS, None, partitions=(DAYS[4], DAYS[2])) == [DAYS[2], DAYS[4]]


def test_an_absent_key_is_named_with_near_ones() -> None:
    with pytest.raises(UsageError, match="no such partition") as caught:
        chosen(DAYS, "day", partitions=("day=2026-11-31",))
    assert "day=2026-11-30" in caught.value.hint


@pytest.mark.parametrize("asked", [{"from_date": "2026-11-01"}, {"last": "7d"}])
def test_dates_need_partitions_by_time(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"partition\.by: time"):
        chosen(["block=000000"], None, **asked)


def test_both_dates_are_included_and_a_datetime_is_an_exclusive_end() -> None:
    assert chosen(DAYS, "day", from_date="2026-11-03", to_date="2026-11-05") == DAYS[2:5]
    assert chosen(DAYS, "day", from_date="2026-11-03", to_date="2026-11-03") == DAYS[2:3]
    assert chosen(DAYS, "day", from_date="2026-11-03", to_date="2026-11-05T00:00") == DAYS[2:4]
    assert chosen(DAYS, "day", to_date="2026-11-02") == DAYS[:2]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"from_date": "2026-13-01"}, "not a date"),
        ({"from_date": "2026-11-05", "to_date": "2026-11-04"}, "is not before"),
        ({"from_date": "2027-01-01"}, "No partition lies between"),
        ({"last": "7x"}, "not a duration"),
        ({"last": "0d"}, "the duration is zero"),
        ({"last": "7d", "to_date": "2026-11-04"}, "cannot be combined"),
    ],
)
def test_dates_that_are_none_or_select_nothing_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(DAYS, "day", **asked)


def test_last_counts_back_from_today_which_it_includes() -> None:
    assert chosen(DAYS, "day", last="1d") == ["day=2026-11-18"]
    assert chosen(DAYS, "day", last="7d") == DAYS[11:18]
    assert chosen(DAYS, "day", last="90000d") == DAYS[:18]
    late = dt.datetime(2026, 11, 18, 23, 30, tzinfo=dt.UTC)
    assert chosen(DAYS, "day", "Europe/Paris", late, last="1d") == ["day=2026-11-19"]
    assert chosen(DAYS, "day", last="6h") == ["day=2026-11-18"]


def test_a_date_names_its_whole_week_and_month() -> None:
    weeks = ["week=2026-W44", "week=2026-W45", "week=2026-W46"]
    assert chosen(weeks, "week", from_date="2026-11-04", to_date="2026-11-04") == ["week=2026-W45"]
    months = ["month=2026-10", "month=2026-11", "month=2026-12"]
    assert chosen(months, "month", from_date="2026-11-20", to_date="2026-12-01") == months[1:]


def test_hours_are_selected_by_the_zones_days_though_their_keys_are_utc() -> None:
    """The day on which the clocks go back has 25 hours, that on which they go forward 23."""
    zone = "Europe/Paris"
    for day, first, hours in (("2026-10-25", "2026-10-24T22Z", 25), ("2026-03-29", "2026-03-28T23Z", 23)):
        midnight = dt.datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)
        keys = keys_between("hour", zone, midnight - dt.timedelta(days=2), midnight + dt.timedelta(days=3))
        found = chosen(keys, "hour", zone, from_date=day, to_date=day)
        assert (found[0], len(found)) == (f"hour={first}", hours)


def test_the_last_hours_are_hours_of_time_also_over_a_change_of_clocks() -> None:
    now = dt.datetime(2026, 10, 25, 2, 0, tzinfo=dt.UTC)  # 03:00 in Paris, where 02:00–03:00 came twice
    keys = keys_between("hour", "UTC", now - dt.timedelta(days=1), now)
    assert chosen(keys, "hour", "Europe/Paris", now, last="4h") == keys[-4:]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
    st.dates(dt.date(2026, 3, 1), dt.date(2026, 11, 20)),
    st.integers(0, 9),
)
def test_dates_select_just_the_partitions_that_hold_an_instant_of_them(
    every: str, zone: str, day: dt.date, more: int
) -> None:
    last = day + dt.timedelta(days=more)
    clock = ZoneInfo(zone)
    began = dt.datetime.combine(day, dt.time(), clock).astimezone(dt.UTC)
    ended = dt.datetime.combine(last + dt.timedelta(days=1), dt.time(), clock).astimezone(dt.UTC)
    around = dt.timedelta(days=40)
    keys = keys_between(every, zone, began - around, ended + around)
    found = chosen(keys, every, zone, from_date=f"{day}", to_date=f"{last}")
    wanted = set(keys_between(every, zone, began, ended))
    assert found == [key for key in keys if key in wanted]


def test_partitions_begin_where_their_names_say() -> None:
    assert start_of("hour=2026-11-01T05Z", "hour") == dt.datetime(2026, 11, 1, 5)
    assert start_of("day=2026-11-01", "day") == dt.datetime(2026, 11, 1)
    assert start_of("week=2026-W01", "week") == dt.datetime(2025, 12, 29)
    assert start_of("week=2026-W53", "week") == dt.datetime(2026, 12, 28)
    assert start_of("month=2026-02", "month") == dt.datetime(2026, 2, 1)
    assert start_of("day=__HIVE_DEFAULT_PARTITION__", "day") is None
    assert start_of("day=nonsense", "day") is None


def test_a_partition_of_nulls_is_selected_by_name_only() -> None:
    nulls = "day=__HIVE_DEFAULT_PARTITION__"
    keys = [*DAYS, nulls]
    assert nulls in chosen(keys, "day")
    assert chosen(keys, "day", partitions=(nulls,)) == [nulls]
    assert nulls not in chosen(keys, "day", from_date="2026-11-01")


# Deciding -----------------------------------------------------------------------------------------------------------


def manifest(**given: Any) -> Manifest:
    said = {
        "kind": "published", "pipeline": "p", "partition": DAYS[0], "generation": 1, "parent": None,
        "input_fingerprint": "in", "stage_fingerprints": {"a": "1", "b": "2"}, "run": "r", "nonce": "n",
        "started_at": NOW, "committed_at": NOW, **given,
    }  # fmt: skip
    return Manifest.model_validate(said)


NOW_IS = OutputShape({"a": "1", "b": "2"})
STATES: dict[str, tuple[Manifest | None, bool, Reprocess, str]] = {
    "absent": (None, False, "missing", "never published"),
    "absent and failed": (None, True, "missing", "never published, last attempt failed (Bug)"),
    "fenced before it was published": (
        manifest(kind="tombstone", stage_fingerprints={}, input_fingerprint=""), False, "missing", "never published",
    ),
    "failed": (manifest(), True, "failed", "last attempt failed (Bug)"),
    "partial": (manifest(kind="partial"), False, "stale", "published partially"),
    "input": (manifest(input_fingerprint="old"), False, "stale", "input changed"),
    "stage": (manifest(stage_fingerprints={"a": "0", "b": "2"}), False, "stale", "stage `a` changed"),
    "new stage": (manifest(stage_fingerprints={"a": "1"}), False, "stale", "stage `b` is new"),
    "gone stage": (manifest(stage_fingerprints={"a": "1", "b": "2", "c": "3"}), False, "stale", "stage `c` is gone"),
    "pending": (manifest(counts=Counts(rows_in=3, pending=3)), False, "all", "3 rows pending"),
    "tombstone over a whole one": (manifest(kind="tombstone"), False, "all", "up to date"),
    "up to date": (manifest(), False, "all", "up to date"),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("reprocess", ORDER)
def test_reprocess_is_cumulative_and_says_why(state: str, reprocess: Reprocess) -> None:
    current, failed, least, reason = STATES[state]
    decision = decide(
        PartitionInput(DAYS[0], 7, "in"), current, shape=NOW_IS, reprocess=reprocess,
        last_failed="failed (Bug)" if failed else None,
    )  # fmt: skip
    assert (decision.partition, decision.rows) == (DAYS[0], 7)
    assert decision.run == (ORDER.index(reprocess) >= ORDER.index(least))
    assert decision.reason == ("asked to reprocess" if least == reprocess == "all" else reason)


def test_a_cancel_over_a_partial_publication_leaves_the_partition_due() -> None:
    store = MemoryStore()
    commit(store, manifest(kind="partial"))
    assert fence(store, DAYS[0], run="r2", pipeline="p", nonce="x") == "fenced"
    current = read_commit(store, DAYS[0], 2)
    assert decide(PartitionInput(DAYS[0], 1, "in"), current, shape=NOW_IS, reprocess="stale").run


@pytest.mark.parametrize(
    ("rows", "row_bytes", "size"),
    [(10_000, 200, 1_000), (10_000, 0, 1_000), (100, 5_000_000, 6), (100, 1 << 40, 1), (100_000, 5_000_000, 201)],
)
def test_batches_of_large_rows_are_small_but_never_too_many(rows: int, row_bytes: int, size: int) -> None:
    assert batch_rows(rows, None, row_bytes) == size
    assert batch_rows(rows, 1_000, row_bytes) == 1_000, "as the spec sets it"
