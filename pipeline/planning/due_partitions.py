"""Which partitions a firing of a schedule takes. Pure: from scheduled times, never from a clock, and from what
partitions are called.

A partition is due once it is over. Intervals are half-open: what is over at `since` belongs to the firing before, what
is over at `at` to this one. Days have 23 to 25 hours where their zone says so.
"""

import datetime as dt
from collections.abc import Sequence

from pipeline.planning.calendar import end_of, in_utc
from schemas.plan import Due, Reprocess


def due_levels(available: Sequence[str], due: Due, *, every: str | None, zone: str) -> dict[str, Reprocess]:
    """The partitions that are taken, each with what makes it run. Without time partitions (`every` None) nothing is
    ever over, and everything that changed is taken."""
    if every is None:
        return dict.fromkeys(available, "stale")
    found = ((key, _level(_over(key, every, zone), due)) for key in available)
    return {key: level for key, level in found if level is not None}


def _over(key: str, every: str, zone: str) -> dt.datetime | None:
    """The moment at which a partition is over; None where it has none (a partition of nulls)."""
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
