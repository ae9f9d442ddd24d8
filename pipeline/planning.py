"""Pure planning: which partitions a selection names, whether each must run and why, how its rows are dealt into
batches. No I/O: everything is decided from values, so that thousands of cases can be tried."""

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zoneinfo import ZoneInfo

from schemas.errors import SpecError, UsageError
from schemas.manifest import Manifest
from schemas.partition_keys import decode_value
from schemas.plan import INPUT_CHANGED, PARTIALLY, Decision, Reprocess, Selection
from schemas.spec.durations import parse_duration

DEFAULT_BATCH_ROWS = 1_000
MOST_BATCH_ROWS = 4_000  # of rows that are answered: what a batch costs in memory
MAX_BATCHES = 500
MAX_EVENTS = 10_000
MAX_ROW_WORKFLOWS = 1_000
PAGE_PARTITIONS = 200
_CANARY_PARTITIONS = 100
# Measured on recorded histories: an activity is 3 events and 2–3 of workflow tasks; a child 3 and a task of 3.
_EVENTS_PER_BATCH = 6
_EVENTS_PER_CHILD = 9


@dataclass(frozen=True)
class Shape:
    """What a run would publish with: the stages' shapes and aspects, and the columns of the input."""

    stages: Mapping[str, str]
    aspects: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    columns: Sequence[str] = ()


# Selecting ---------------------------------------------------------------------------------------------------------


def select(
    available: Sequence[str], selection: Selection, *, every: str | None, zone: str, now: dt.datetime
) -> list[str]:
    """The selected partition keys, in order. `every` is the width of time partitions, None for others. Raises
    UsageError for a key that is not there, dates that are none or select nothing."""
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
        # A date names its whole week, month or hour: what reaches into the interval is selected.
        if (first is None or over > first) and (last is None or began < last):
            chosen.append(key)
    if not chosen:
        spanned = f"{available[0]} … {available[-1]}" if available else "none"
        raise UsageError(
            f"No partition lies between {_said(start)} and {_said(end)}.", hint=f"The source has: {spanned}"
        )
    return chosen


def _nearby(key: str, available: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, available, n=3, cutoff=0.5) or list(available[:3])
    return f"There are {len(available):,}, for example {', '.join(close)}" if close else "The source has none."


def _said(when: dt.datetime | None) -> str:
    return "the end of time" if when is None else when.isoformat(sep=" ", timespec="minutes")


def interval_of(selection: Selection, *, zone: str, now: dt.datetime) -> tuple[dt.datetime | None, dt.datetime | None]:
    """The half-open interval of local wall-clock times [start, end) that dates select. A date is its whole day and
    included; a datetime is an exclusive end; `last` counts back from the end of today."""
    if selection.last:
        if selection.from_date or selection.to_date:
            raise UsageError("--last goes without --from-date and --to-date.")
        try:
            length = parse_duration(selection.last)
        except ValueError as exc:
            raise UsageError(f"--last {selection.last}: {exc}.") from None
        if not length:
            raise UsageError(f"--last {selection.last}: that is no time at all.", hint="Write 24h, 7d or 4w.")
        today = _local(now, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        try:
            end = today + dt.timedelta(days=1)
            return (end - length if length >= dt.timedelta(days=1) else _local(now - length, zone)), end
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
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} {text}: no date.", hint="Write 2026-11-01 or 2026-11-01T06:00.") from None
    return _local(when, zone) if when.tzinfo else when


def _local(when: dt.datetime, zone: str) -> dt.datetime:
    """On the wall clock of a zone; `fold` tells the second time that an hour is shown."""
    return when.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def in_utc(local: dt.datetime | None, zone: str) -> dt.datetime | None:
    if local is None:
        return None
    try:
        return local.replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC).replace(tzinfo=None)
    except OverflowError:  # within a day of the calendar's end
        return local


def start_of(key: str, every: str) -> dt.datetime | None:
    """When a time partition begins, on the clock of its zone (hours: of UTC). None for a partition of nulls."""
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
    """When a time partition is over, on the same clock."""
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


# Deciding ----------------------------------------------------------------------------------------------------------


def decide(
    partition: str,
    rows: int,
    current: Manifest | None,
    *,
    input_fingerprint: str,
    shape: Shape,
    reprocess: Reprocess,
    last_failed: str | None = None,
    answered: int = 0,
) -> Decision:
    """Run or skip, by what is published and what is now. The one function behind `plan`, `run` and `backfill`.
    `answered`: of the rows that are pending there, those that a person has answered since."""
    reason, level = _difference(current, input_fingerprint, shape, last_failed, answered)
    order = ("missing", "failed", "stale", "all")
    runs = order.index(reprocess) >= order.index(level)
    if level == "all" and runs:
        reason = "asked to reprocess"
    return Decision(
        partition=partition,
        run=runs,
        reason=reason,
        rows=rows,
        fingerprint=input_fingerprint,
        generation=current.generation if current else 0,
        published_by=current.run if current else "",
        index=current.index.key if current and current.index else None,
    )


def _difference(
    current: Manifest | None, input_fingerprint: str, shape: Shape, last_failed: str | None, answered: int
) -> tuple[str, Reprocess]:
    """What differs, and the least `--reprocess` that takes it. The input comes last: rows that moved follow it."""
    moved = [] if last_failed is None else [f"last attempt {last_failed}"]
    if current is None or not current.ever_published:
        return ", ".join(["never published", *moved]), "missing"
    if current.kind == "partial":
        moved.append(PARTIALLY)
    if dict(current.stage_fingerprints) != dict(shape.stages):
        moved.append(_stages_changed(current, shape))
    if current.input_fingerprint != input_fingerprint:
        moved.append(INPUT_CHANGED + _columns_changed(current.input_columns, shape.columns))
    if moved:
        return ", ".join(moved), "stale" if last_failed is None else "failed"
    if answered:
        return f"{answered:,} of {current.counts.pending:,} pending rows answered", "stale"
    if current.counts.pending:
        return f"{current.counts.pending} rows pending", "all"
    return "up to date", "all"


def _columns_changed(before: Sequence[str], now: Sequence[str]) -> str:
    if not before or not now:
        return ""
    said = [f"column `{name}` is new" for name in now if name not in before]
    said += [f"column `{name}` is gone" for name in before if name not in now]
    return f" ({', '.join(said)})" if said else ""


def _stages_changed(current: Manifest, shape: Shape) -> str:
    before, now = current.stage_fingerprints, shape.stages
    said = [
        *(
            _what_changed(name, current.stage_aspects.get(name, {}), shape.aspects.get(name, {}))
            for name in now
            if name in before and before[name] != now[name]
        ),
        *(f"stage `{name}` is new" for name in now if name not in before),
        *(f"stage `{name}` is gone" for name in before if name not in now),
    ]
    return ", ".join(said) or "order of stages changed"


def _what_changed(stage: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """`prompt and model of `triage` changed`; where no aspect is known to, that the stage did."""
    named = [name for name in before if name in now and before[name] != now[name]]
    if not named:
        return f"stage `{stage}` changed"
    *firsts, last = named
    return f"{', '.join(firsts)} and {last} of `{stage}` changed" if firsts else f"{last} of `{stage}` changed"


# Dealing rows ------------------------------------------------------------------------------------------------------


def batch_rows(rows: int, asked: int | None) -> int:
    """Rows a batch: as asked, else about 1,000, more where that would make too many batches. Raises SpecError."""
    if asked is None:
        return max(DEFAULT_BATCH_ROWS, math.ceil(rows / (MAX_BATCHES - 1)))
    batches = math.ceil(rows / asked)
    if batches > MAX_BATCHES:
        raise SpecError(
            f"limits.batch_rows = {asked}: a partition of {rows:,} rows would take {batches:,} batches, "
            f"{batches * _EVENTS_PER_BATCH:,} Temporal events; {MAX_BATCHES} batches are allowed.",
            hint=f"Raise it to {math.ceil(rows / MAX_BATCHES):,}, leave it out, or make partitions smaller.",
        )
    return asked


def refuse_many_rows(partition: str, rows: int) -> None:
    """Raises SpecError where rows are too many to be workflows of one partition."""
    if rows > MAX_ROW_WORKFLOWS:
        raise SpecError(
            f"{partition}: {rows:,} rows, and a stage says placement: node; {MAX_ROW_WORKFLOWS:,} rows a partition can "
            "be workflows of their own.",
            hint="Use placement: batch, which loses no more to a crash than calls in flight, or smaller partitions.",
        )


def pages_of(sizes: Iterable[int], room: int) -> list[list[int]]:
    """Positions dealt to pages, by the bytes of each line: a page is one payload of at most `room` bytes, and few
    enough partitions that one Temporal execution stays under its event budget."""
    most = min(PAGE_PARTITIONS, MAX_EVENTS // (2 * _EVENTS_PER_CHILD))
    pages: list[list[int]] = []
    taken = 0
    for at, size in enumerate(sizes):
        if not pages or len(pages[-1]) >= most or taken + size > room:
            pages.append([])
            taken = 0
        pages[-1].append(at)
        taken += size
    return pages


def sample(decided: Sequence[Decision], rows: int) -> list[Decision]:
    """About `rows` rows, the first of partitions that are spread evenly; nothing where that would be all there is."""
    if not 0 < rows < sum(decision.rows for decision in decided):
        return []
    filled = [decision for decision in decided if decision.rows]
    many = min(rows, len(filled), _CANARY_PARTITIONS)
    out, left = [], rows
    for at in range(many):
        decision = filled[at * len(filled) // many]
        taken = min(decision.rows, math.ceil(left / (many - at)))
        out.append(replace(decision, rows=taken))
        left -= taken
    return [decision for decision in out if decision.rows]


def cut(work: Sequence[bool], size: int, most: int) -> list[int]:
    """Rows a batch: a new batch begins after `size` rows that mean work, or `most` rows of any kind. What is answered
    already is dealt in large batches, as each is an activity."""
    sizes = [0]
    busy = 0
    for works in work:
        if busy == size or sizes[-1] == most:
            sizes.append(0)
            busy = 0
        sizes[-1] += 1
        busy += works
    return sizes if sizes[-1] else []


def deal(counts: Iterable[int], sizes: Iterable[int]) -> list[list[tuple[int, int, int]]]:
    """Batches of these sizes over ranges with these row counts: each a list of (range, first row in it, rows). They may
    end before the counts do."""
    batches: list[list[tuple[int, int, int]]] = []
    left = iter(enumerate(counts))
    number, count, at = -1, 0, 0
    for size in sizes:
        batches.append([])
        room = size
        while room:
            while at == count:
                (number, count), at = next(left), 0
            taken = min(room, count - at)
            batches[-1].append((number, at, taken))
            at += taken
            room -= taken
    return batches
