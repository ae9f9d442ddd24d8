"""Which partitions a firing takes: from scheduled times and names alone, over any zone, width and clock change."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.selection.due_partitions import due_levels
from schemas.plan import Due

ZONES = ("UTC", "Europe/Paris", "America/Sao_Paulo", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe")
WEEK = dt.timedelta(days=7)


def days(first: str, count: int) -> list[str]:
    start = dt.date.fromisoformat(first)
    return [f"day={start + dt.timedelta(days=n)}" for n in range(count)]


def hours_of(zone: str, first: str, last: str) -> list[dt.datetime]:
    """Every full hour of a clock in a zone, as an hourly schedule fires: a skipped hour never, a repeated one twice."""
    start = dt.datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)
    end = dt.datetime.fromisoformat(last).replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)
    return [start + dt.timedelta(hours=n) for n in range(int((end - start) / dt.timedelta(hours=1)) + 1)]


@pytest.mark.parametrize(
    ("zone", "first", "last", "firings"),
    [
        ("Europe/Paris", "2027-03-01T00:00", "2027-04-01T00:00", 744),  # 743 hours, and both ends
        ("Europe/Paris", "2027-10-01T00:00", "2027-11-01T00:00", 746),
        ("UTC", "2027-03-01T00:00", "2027-04-01T00:00", 745),
    ],
)
def test_a_month_of_an_hourly_schedule_takes_each_day_once_at_its_midnight(
    zone: str, first: str, last: str, firings: int
) -> None:
    times = hours_of(zone, first, last)
    assert len(times) == firings
    available = days("2027-02-20", 80)
    taken: Counter[str] = Counter()
    for since, at in pairwise(times):
        fresh = [
            key
            for key, level in due_levels(
                available, Due(at=at, since=since, lookback=WEEK), every="day", zone=zone
            ).items()
            if level == "stale"
        ]
        taken.update(fresh)
        for key in fresh:
            local = at.astimezone(ZoneInfo(zone))
            assert (f"day={local.date() - dt.timedelta(days=1)}", local.hour) == (key, 0)
    month = first[:8]
    assert taken == Counter(key for key in available if key.startswith(f"day={month}"))


@settings(deadline=None, max_examples=30)
@given(
    zone=st.sampled_from(ZONES),
    every=st.sampled_from(["hour", "day", "week", "month"]),
    start=st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1)),  # noqa: DTZ001
    steps=st.lists(st.integers(1, 3 * 24 * 60), min_size=2, max_size=30),
    lookback=st.integers(0, 40),
)
def test_intervals_meet_without_gap_or_overlap(
    zone: str, every: str, start: dt.datetime, steps: list[int], lookback: int
) -> None:
    """Whatever the firings: what is over after the first and by the last is new to exactly one of them; what is not
    over is taken by none; what was over before is only looked after, and only as far back as it is said."""
    times = [start.replace(tzinfo=dt.UTC)]
    for minutes in steps:
        times.append(times[-1] + dt.timedelta(minutes=minutes))
    available = _partitions(every, times[0] - dt.timedelta(days=70), times[-1] + dt.timedelta(days=40))
    back = dt.timedelta(days=lookback)
    new: Counter[str] = Counter()
    for since, at in pairwise(times):
        found = due_levels(available, Due(at=at, since=since, lookback=back), every=every, zone=zone)
        new.update(key for key, level in found.items() if level == "stale")
        for key, level in found.items():
            over = _over(every, key, zone)
            assert over <= at
            assert level == "stale" or at - back < over <= since
    assert new == Counter(key for key in available if times[0] < _over(every, key, zone) <= times[-1])


def test_new_files_are_taken_before_their_day_is_over_and_late_ones_back_to_the_lookback() -> None:
    at = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
    due = Due(at=at, since=at - dt.timedelta(hours=1), lookback=dt.timedelta(days=3), open=True)
    found = due_levels(days("2026-11-10", 20), due, every="day", zone="UTC")
    assert found == dict.fromkeys(days("2026-11-17", 13), "stale")


def test_partitions_without_a_time_are_all_looked_at() -> None:
    due = Due(at=dt.datetime.now(dt.UTC), since=dt.datetime.now(dt.UTC), lookback=dt.timedelta(0))
    assert due_levels(["file=a", "file=b"], due, every=None, zone="UTC") == {"file=a": "stale", "file=b": "stale"}
    assert due_levels(["day=__HIVE_DEFAULT_PARTITION__"], due, every="day", zone="UTC") != {}


def _partitions(every: str, first: dt.datetime, last: dt.datetime) -> list[str]:
    formats = {"hour": "hour=%Y-%m-%dT%HZ", "day": "day=%Y-%m-%d", "week": "week=%G-W%V", "month": "month=%Y-%m"}
    step = dt.timedelta(hours=1) if every == "hour" else dt.timedelta(days=1)
    count = int((last - first) / step)
    return sorted({(first + n * step).strftime(formats[every]) for n in range(count)})


def _over(every: str, key: str, zone: str) -> dt.datetime:
    """The end of a partition, reckoned in another way than the code under test does."""
    value = key.partition("=")[2]
    if every == "hour":
        start = dt.datetime.strptime(value, "%Y-%m-%dT%HZ").replace(tzinfo=dt.UTC)
        return start + dt.timedelta(hours=1)
    if every == "week":
        day = dt.date.fromisoformat(f"{value}-7") + dt.timedelta(days=1)
    elif every == "day":
        day = dt.date.fromisoformat(value) + dt.timedelta(days=1)
    else:
        year, month = map(int, value.split("-"))
        day = dt.date(year + month // 12, month % 12 + 1, 1)
    return dt.datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)
