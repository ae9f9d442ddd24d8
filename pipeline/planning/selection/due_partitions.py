"""Partitions that a firing of a schedule runs. Pure: from scheduled times, never from a clock, and from the keys of
partitions.

A partition is due once it is over. Intervals are half-open: a partition that is over at `since` belongs to the firing
before, one that is over at `at` to this one. Days have 23 to 25 hours if their zone has such days.
"""

import datetime as dt
from collections.abc import Sequence

from pipeline.planning.selection.calendar import end_of, in_utc
from schemas.plan import Due, Reprocess


def due_levels(available: Sequence[str], due: Due, *, every: str | None, zone: str) -> dict[str, Reprocess]:
    """Return the due partitions, each with the difference that makes it run. Without time partitions (`every` None)
    nothing is ever over, and every partition that changed is due."""
    if every is None:
        return dict.fromkeys(available, "stale")
    found = ((key, _level(_over(key, every, zone), due)) for key in available)
    return {key: level for key, level in found if level is not None}


def _over(key: str, every: str, zone: str) -> dt.datetime | None:
    """Return the time when a partition is over; None if it has none (a partition of nulls)."""
    ends = end_of(key, every)
    if ends is None:
        return None
    moment = ends if every == "hour" else in_utc(ends, zone)
    assert moment is not None
    return moment.replace(tzinfo=dt.UTC)


def _level(over: dt.datetime | None, due: Due) -> Reprocess | None:
    if over is None:
        return "stale"
    if over > due.at:
        return "stale" if due.open else None
    if over > due.since:
        return "stale"
    return ("stale" if due.open else "failed") if over > _back(due) else None


def _back(due: Due) -> dt.datetime:
    try:
        return due.at - due.lookback
    except OverflowError:
        return dt.datetime.min.replace(tzinfo=dt.UTC)
