"""How rows are cut into batches and partitions into pages, and the sample of a canary. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline.sources.snapshot import Entry
from schemas.errors import SpecError
from schemas.plan import Decision
from schemas.staging import PlannedBatch, RowRange

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


def dealt_batches(entry: Entry, size: int, limit: int) -> list[PlannedBatch]:
    """Batches of `size` rows over the first `limit` rows of a partition."""
    return batches_over(entry, [min(size, limit - at) for at in range(0, limit, size)])


def batches_over(entry: Entry, sizes: Sequence[int]) -> list[PlannedBatch]:
    out = []
    for dealt in deal([found.rows for found in entry.ranges], sizes):
        ranges = tuple(
            RowRange(file=entry.ranges[number].file, start=entry.ranges[number].start + at, rows=rows)
            for number, at, rows in dealt
        )
        out.append(PlannedBatch(rows=sum(r.rows for r in ranges), ranges=ranges))
    return out
