"""Start and end of time partitions. Pure."""

import datetime as dt
from zoneinfo import ZoneInfo

from schemas.partition_keys import decode_value


def wall_clock(moment: dt.datetime, zone: str) -> dt.datetime:
    """Convert to the wall clock of a zone; `fold` marks the second time that an hour is shown."""
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def in_utc(local: dt.datetime | None, zone: str) -> dt.datetime | None:
    if local is None:
        return None
    try:
        return local.replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC).replace(tzinfo=None)
    except OverflowError:  # within a day of the calendar's end
        return local


def start_of(key: str, every: str) -> dt.datetime | None:
    """Return the start of a time partition, on the clock of its zone (hours: UTC). None for a partition of nulls."""
    value = decode_value(key.partition("=")[2])
    if value is None:
        return None
    try:
        if every == "hour":
            return dt.datetime.strptime(value, "%Y-%m-%dT%HZ")  # noqa: DTZ007  wall clock on purpose
        if every == "week":
            return dt.datetime.combine(dt.date.fromisoformat(f"{value}-1"), dt.time())
        return dt.datetime.fromisoformat(value if every == "day" else f"{value}-01")
    except ValueError:
        return None


def end_of(key: str, every: str) -> dt.datetime | None:
    """Return the end of a time partition, on the same clock."""
    began = start_of(key, every)
    if began is None:
        return None
    try:
        if every == "month":
            return (began.replace(day=28) + dt.timedelta(days=4)).replace(day=1)
        return began + _LENGTHS[every]
    except OverflowError:
        return dt.datetime.max  # noqa: DTZ901  wall clock on purpose


_LENGTHS = {"hour": dt.timedelta(hours=1), "day": dt.timedelta(days=1), "week": dt.timedelta(weeks=1)}
