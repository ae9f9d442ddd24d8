"""Partitions that the flags select. Pure: from values, so that thousands of cases can be tried."""

import datetime as dt
import re
from collections.abc import Sequence

from pipeline.planning.selection.calendar import end_of, in_utc, start_of, wall_clock
from schemas.errors import UsageError
from schemas.plan import Selection
from schemas.spec.durations import parse_duration


def select(
    available: Sequence[str],
    selection: Selection,
    *,
    every: str | None,
    zone: str,
    now: dt.datetime,
    may_be_empty: bool = False,
) -> list[str]:
    """Return the selected partition keys, in order. `every` is the width of time partitions, None for others. Raises
    UsageError for an absent key, or for dates that are invalid or select nothing."""
    if selection.partitions:
        known = set(available)
        for key in selection.partitions:
            if key not in known:
                raise UsageError(f"--partition {key}: no such partition in the source.", hint=_nearby(key, available))
        return [key for key in available if key in set(selection.partitions)]
    if not (selection.from_date or selection.to_date or selection.last):
        return list(available)
    if every is None:
        raise UsageError("--from-date, --to-date and --last need partition.by: time.", hint="Use --partition KEY.")
    start, end = interval_of(selection, zone=zone, now=now)
    first, last = (in_utc(start, zone), in_utc(end, zone)) if every == "hour" else (start, end)
    chosen = []
    for key in available:
        began, over = start_of(key, every), end_of(key, every)
        if began is None or over is None:
            continue
        # A date names its whole week, month or hour: partitions that reach into the interval are selected.
        if (first is None or over > first) and (last is None or began < last):
            chosen.append(key)
    if not chosen and not may_be_empty:
        spanned = f"{available[0]} … {available[-1]}" if available else "none"
        raise UsageError(
            f"No partition lies between {_time_text(start)} and {_time_text(end)}.", hint=f"The source has: {spanned}"
        )
    return chosen


def _nearby(key: str, available: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, available, n=3, cutoff=0.5) or list(available[:3])
    return f"There are {len(available):,}, for example {', '.join(close)}" if close else "The source has none."


def _time_text(time: dt.datetime | None) -> str:
    return "no limit" if time is None else time.isoformat(sep=" ", timespec="minutes")


def interval_of(selection: Selection, *, zone: str, now: dt.datetime) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Return the half-open interval of local wall-clock times [start, end) that dates select. A date is its whole day
    and included; a datetime is an exclusive end; `last` counts back from the end of today."""
    if selection.last:
        if selection.from_date or selection.to_date:
            raise UsageError("--last cannot be combined with --from-date or --to-date.")
        try:
            length = parse_duration(selection.last)
        except ValueError as exc:
            raise UsageError(f"--last {selection.last}: {exc}.") from None
        if not length:
            raise UsageError(f"--last {selection.last}: the duration is zero.", hint="Write 24h, 7d or 4w.")
        today = wall_clock(now, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        try:
            end = today + dt.timedelta(days=1)
            return (end - length if length >= dt.timedelta(days=1) else wall_clock(now - length, zone)), end
        except OverflowError:
            return None, end
    start = _date("--from-date", selection.from_date, zone, is_end=False)
    finish = _date("--to-date", selection.to_date, zone, is_end=True)
    if start and finish and start >= finish:
        raise UsageError(f"--from-date {selection.from_date} is not before --to-date {selection.to_date}.")
    return start, finish


def _date(flag: str, text: str | None, zone: str, *, is_end: bool) -> dt.datetime | None:
    if text is None:
        return None
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            day = dt.datetime.combine(dt.date.fromisoformat(text), dt.time())
            return day + dt.timedelta(days=1) if is_end else day
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} {text}: not a date.", hint="Write 2026-11-01 or 2026-11-01T06:00.") from None
    return wall_clock(time, zone) if time.tzinfo else time
