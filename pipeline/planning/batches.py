"""Rows cut into batches, partitions cut into pages, and the sample of a canary. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline.sources.snapshot import Entry
from schemas.errors import SpecError
from schemas.plan import Decision
from schemas.staging import PlannedBatch, RowRange

DEFAULT_BATCH_ROWS = 1_000
MOST_BATCH_ROWS = 4_000  # with rows that are answered: bounds the memory of a batch
MOST_ANSWERED_ROWS = 20_000  # of a batch that needs no call: it is made of columns
BATCH_BYTES = 32 * 1024 * 1024  # of the rows of a batch, where the spec sets no number of rows
MAX_BATCHES = 500
MAX_EVENTS = 10_000
MAX_ROW_WORKFLOWS = 1_000
PAGE_PARTITIONS = 200
_CANARY_PARTITIONS = 100
# Measured on recorded histories: an activity is 3 events and 2–3 of workflow tasks; a child 3 and a task of 3.
_EVENTS_PER_BATCH = 6
_EVENTS_PER_CHILD = 9


def rows_within(size: int, row_bytes: int, most: int) -> int:
    """Return the rows of `row_bytes` each that fit into so many bytes: at least 1, at most `most`."""
    return max(1, min(most, size // max(1, row_bytes)))


def batch_rows(rows: int, setting: int | None, row_bytes: int = 0) -> int:
    """Return the rows a batch: as set, else about 1,000, fewer if they are large, more if that makes too many batches.
    Raises SpecError."""
    if setting is None:
        return max(rows_within(BATCH_BYTES, row_bytes, DEFAULT_BATCH_ROWS), math.ceil(rows / (MAX_BATCHES - 1)))
    batches = math.ceil(rows / setting)
    if batches > MAX_BATCHES:
        raise SpecError(
            f"limits.batch_rows = {setting}: a partition of {rows:,} rows would take {batches:,} batches, "
            f"{batches * _EVENTS_PER_BATCH:,} Temporal events; {MAX_BATCHES} batches are allowed.",
            hint=f"Raise it to {math.ceil(rows / MAX_BATCHES):,}, remove it, or make partitions smaller.",
        )
    return setting


def refuse_many_rows(partition: str, rows: int) -> None:
    """Raise SpecError if rows are too many to be workflows of one partition."""
    if rows > MAX_ROW_WORKFLOWS:
        raise SpecError(
            f"{partition}: {rows:,} rows, and a stage has placement: node; at most {MAX_ROW_WORKFLOWS:,} rows of a "
            "partition can be workflows of their own.",
            hint="Use placement: batch, which loses only calls in flight to a crash, or smaller partitions.",
        )


def pages_of(sizes: Iterable[int], room: int) -> list[list[int]]:
    """Group positions into pages, by the bytes of each line: a page is one payload of at most `room` bytes, and few
    enough partitions that one Temporal execution stays under its event budget."""
    most = min(PAGE_PARTITIONS, MAX_EVENTS // (2 * _EVENTS_PER_CHILD))
    pages: list[list[int]] = []
    used = 0
    for position, size in enumerate(sizes):
        if not pages or len(pages[-1]) >= most or used + size > room:
            pages.append([])
            used = 0
        pages[-1].append(position)
        used += size
    return pages


def sample(decided: Sequence[Decision], rows: int) -> list[Decision]:
    """Sample about `rows` rows, the first of evenly spread partitions; nothing if that is all rows."""
    if not 0 < rows < sum(decision.rows for decision in decided):
        return []
    filled = [decision for decision in decided if decision.rows]
    number = min(rows, len(filled), _CANARY_PARTITIONS)
    chosen, left = [], rows
    for index in range(number):
        decision = filled[index * len(filled) // number]
        count = min(decision.rows, math.ceil(left / (number - index)))
        chosen.append(replace(decision, rows=count))
        left -= count
    return [decision for decision in chosen if decision.rows]


def cut(calls: Sequence[bool], size: int, most: int, most_answered: int) -> list[int]:
    """Return the rows of each batch: a new one begins after `size` rows that need a call, or `most` rows of any kind;
    one in which no row needs a call has up to `most_answered`. Answered rows go into large batches, as each batch is an
    activity."""
    sizes = [0]
    busy = 0
    for needs_call in calls:
        room = most if busy or needs_call else most_answered
        if busy == size or sizes[-1] >= room:
            sizes.append(0)
            busy = 0
        sizes[-1] += 1
        busy += needs_call
    return sizes if sizes[-1] else []


def batch_ranges(counts: Iterable[int], sizes: Iterable[int]) -> list[list[tuple[int, int, int]]]:
    """Cut ranges with these row counts into batches of these sizes: each a list of (range, first row in it, rows). The
    batches may end before the ranges do."""
    batches: list[list[tuple[int, int, int]]] = []
    left = iter(enumerate(counts))
    number, count, start = -1, 0, 0
    for size in sizes:
        batches.append([])
        room = size
        while room:
            while start == count:
                (number, count), start = next(left), 0
            rows = min(room, count - start)
            batches[-1].append((number, start, rows))
            start += rows
            room -= rows
    return batches


def equal_batches(entry: Entry, size: int, limit: int) -> list[PlannedBatch]:
    """Cut the first `limit` rows of a partition into batches of `size` rows."""
    return batches_over(entry, [min(size, limit - start) for start in range(0, limit, size)])


def batches_over(entry: Entry, sizes: Sequence[int]) -> list[PlannedBatch]:
    batches = []
    for parts in batch_ranges([found.rows for found in entry.ranges], sizes):
        ranges = tuple(
            RowRange(file=entry.ranges[number].file, start=entry.ranges[number].start + start, rows=rows)
            for number, start, rows in parts
        )
        batches.append(PlannedBatch(rows=sum(r.rows for r in ranges), ranges=ranges))
    return batches
