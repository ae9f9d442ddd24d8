"""The partitions of a sink: one state each for the map, counts of all, and where each is drawn."""

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.planning.partition_status import PartitionStatus

# The first that is true of a partition is its colour. The first two are of now, and known where Temporal answers.
STATES = (
    "held", "running", "failed", "cancelled", "missing", "stale", "partial", "gone", "pending", "rejected", "published",
    "retired",
)  # fmt: skip
_DAY = re.compile(r"[^=/]+=(\d{4})-(\d\d)-(\d\d)\Z")
_HOUR = re.compile(r"[^=/]+=(\d{4}-\d\d-\d\d)T(\d\d)Z\Z")
_LEVELS = 5
_YEARS_BELOW = 4  # more of them are set in two columns
_WEEKS = 61  # of a year, and the gap to the next with its label


def state_of(status: PartitionStatus, now: Mapping[str, str] | None = None) -> str:
    """Return the state of a partition; `now`: of those at work."""
    if now is not None and status.partition in now:
        return now[status.partition]
    return next((state for state in STATES if state in status.statuses), "missing")


@dataclass(frozen=True)
class Measure:
    """What the map shows beside the state: `of` a partition, None where it has no such number."""

    name: str
    unit: str
    of: Callable[[PartitionStatus], float | None]


def _share_rejected(status: PartitionStatus) -> float | None:
    counts = status.published.counts if status.published is not None else None
    return None if counts is None or not counts.rows_in else 100 * counts.rejected / counts.rows_in


def _age_days(status: PartitionStatus) -> float | None:
    if status.published is None:
        return None
    return (dt.datetime.now(dt.UTC) - status.published.committed_at).total_seconds() / 86_400


MEASURES = {
    "rows": Measure("rows", "rows", lambda one: None if one.published is None else one.published.counts.out),
    "rejects": Measure("rejected rows", "% of rows", _share_rejected),
    "age": Measure("time since published", "days", _age_days),
    "size": Measure("size of files", "bytes", lambda one: one.bytes if one.published is not None else None),
}


@dataclass(frozen=True)
class Layer:
    """The squares of one colour as the path of an SVG, with a line of the legend."""

    kind: str
    label: str
    count: int
    path: str


@dataclass(frozen=True)
class Label:
    x: int
    y: int
    text: str


@dataclass(frozen=True)
class Map:
    """Squares of `side` units, `step` apart. `cells`: for each partition its column and row, in the order of the keys;
    `title` says what it is of."""

    width: int
    height: int
    side: int
    step: int
    layers: tuple[Layer, ...]
    labels: tuple[Label, ...]
    cells: tuple[tuple[int, int], ...]
    title: str


def map_of(
    partitions: Sequence[PartitionStatus], measure: Measure | None = None, now: Mapping[str, str] | None = None
) -> Map:
    """Draw a calendar of days (a column a week) or hours (a row a day), else a grid in order of the keys."""
    keys = [one.partition for one in partitions]
    places, labels, kind = _calendar(keys) or _hours(keys) or _grid(keys)
    step = 14 if len(keys) <= 1_500 else 11 if len(keys) <= 4_000 else 9
    side = step - 2
    left, top = (46, 4) if labels else (2, 2)
    cells = tuple((left + x * step, top + y * step) for x, y in places)
    layers = _by_state(partitions, cells, side, now) if measure is None else _by_level(partitions, measure, cells, side)
    return Map(
        width=max((x for x, _ in cells), default=0) + step + 2,
        height=max((y for _, y in cells), default=0) + step + 2,
        side=side,
        step=step,
        layers=tuple(layers),
        labels=tuple(Label(x * step, top + y * step + side - 1, text) for x, y, text in labels),
        cells=cells,
        title=kind,
    )


Places = tuple[list[tuple[int, int]], list[tuple[int, int, str]], str]


def _calendar(keys: Sequence[str]) -> Places | None:
    """Years one below the other, the newest first, many of them side by side; in each a column a week, a row a
    weekday."""
    found = [_DAY.match(key) for key in keys]
    if not keys or not all(found):
        return None
    try:
        days = [dt.date(*map(int, match.groups())) for match in found if match is not None]
    except ValueError:
        return None
    years = sorted({day.year for day in days}, reverse=True)
    below = math.ceil(len(years) / (2 if len(years) > _YEARS_BELOW else 1))
    corners = {year: (number // below * _WEEKS, number % below * 8) for number, year in enumerate(years)}
    places = []
    for day in days:
        (left, top), first = corners[day.year], dt.date(day.year, 1, 1)
        places.append((left + (day.timetuple().tm_yday - 1 + first.weekday()) // 7, top + day.weekday()))
    labels = [(left, top, str(year)) for year, (left, top) in corners.items()]
    return places, labels, "days, a column a week from Monday down"


def _hours(keys: Sequence[str]) -> Places | None:
    found = [_HOUR.match(key) for key in keys]
    if not keys or not all(found):
        return None
    parts = [(match[1], int(match[2])) for match in found if match is not None]
    days = sorted({day for day, _ in parts}, reverse=True)
    rows = {day: number for number, day in enumerate(days)}
    labels = [(0, row, day[5:]) for day, row in rows.items()]
    return [(hour, rows[day]) for day, hour in parts], labels, "hours, a row a day in UTC"


def _grid(keys: Sequence[str]) -> Places:
    columns = max(1, min(len(keys), 100 if len(keys) > 4_000 else 80 if len(keys) > 1_500 else 64))
    return (
        [(number % columns, number // columns) for number in range(len(keys))],
        [],
        "partitions in order of their keys",
    )


def _path(cells: Sequence[tuple[int, int]], side: int) -> str:
    return "".join(f"M{x} {y}h{side}v{side}h-{side}z" for x, y in cells)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _by_state(
    partitions: Sequence[PartitionStatus], cells: Sequence[tuple[int, int]], side: int, now: Mapping[str, str] | None
) -> list[Layer]:
    states = [state_of(one, now) for one in partitions]
    counts = Counter(states)
    return [
        Layer(state, state, counts[state], _path([c for c, s in zip(cells, states, strict=True) if s == state], side))
        for state in reversed(STATES)
        if counts[state]
    ]


def _by_level(
    partitions: Sequence[PartitionStatus], measure: Measure, cells: Sequence[tuple[int, int]], side: int
) -> list[Layer]:
    values = [measure.of(one) for one in partitions]
    known = sorted({value for value in values if value is not None})
    bounds = (
        [known[min(len(known) - 1, len(known) * (level + 1) // _LEVELS)] for level in range(_LEVELS)] if known else []
    )
    bounds = list(dict.fromkeys(bounds))

    def level(value: float) -> int:
        return next(number for number, bound in enumerate(bounds) if value <= bound)

    levels = [None if value is None else level(value) for value in values]
    counts = Counter(levels)
    layers = []
    for number, bound in enumerate(bounds):
        mine = [cell for cell, one in zip(cells, levels, strict=True) if one == number]
        if mine:
            strength = 1 + round(number * (_LEVELS - 1) / max(1, len(bounds) - 1))
            layers.append(
                Layer(f"level-{strength}", f"up to {_short(bound)} {measure.unit}", counts[number], _path(mine, side))
            )
    if counts[None]:
        none = [cell for cell, one in zip(cells, levels, strict=True) if one is None]
        layers.append(Layer("missing", "not published, or not known", counts[None], _path(none, side)))
    return layers
