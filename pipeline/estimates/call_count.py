"""Count the rows and calls of a run before it costs money. Reads the input and the journal, writes nothing but
indexes.

Each batch goes through the stages as it would in a run, with the answers that are known.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.estimates.followed_batch import CallProbe, CountedRows
from pipeline.estimates.partition_count import PartitionCount, Reading
from pipeline.journal.answers.calls import CallFinder
from pipeline.planning.job import Job
from pipeline.planning.known_answers import index_answers, other_journals
from pipeline.progress_note import Note, unnoted
from pipeline.stores import Store
from schemas.plan import Decision, RowChanges
from stages.contract import GraphStage, graph_stages

_THREADS = min(4, os.cpu_count() or 1)  # each holds what it counts of a partition
_PARTITIONS_AT_ONCE, _ROWS_AT_ONCE = 64, 400_000  # whose keys are held until all of them are looked up
_GUESSED_CALLS = 3  # of each node, where a graph does not declare its number of calls


class DistinctNumbers:
    """A set of 64-bit numbers in 8 bytes each, for the rows of all partitions."""

    def __init__(self) -> None:
        self._parts = [np.empty(0, dtype=np.int64)]
        self._new = 0

    def add(self, numbers: set[int]) -> None:
        self._parts.append(np.fromiter(numbers, dtype=np.int64, count=len(numbers)))
        self._new += len(numbers)
        if self._new > len(self._parts[0]):
            self.count()

    def count(self) -> int:
        if self._new:
            self._parts = [np.unique(np.concatenate(self._parts))]
            self._new = 0
        return len(self._parts[0])


@dataclass
class StageCount:
    """Counts of one graph stage: the different rows that need it, and the size of the prompts that were rendered."""

    stage: GraphStage
    measured: int = 0
    prompt_bytes: int = 0
    _sure: DistinctNumbers = field(default_factory=DistinctNumbers)
    _asking: DistinctNumbers = field(default_factory=DistinctNumbers)
    _all: DistinctNumbers = field(default_factory=DistinctNumbers)
    _unknown: int = 0

    def add(self, counted: CountedRows) -> None:
        """Add the rows of a partition. Rows that are equal to those of another one need no call of their own."""
        self._sure.add(counted.sure)
        self._asking.add(counted.asking & counted.sure)
        self._all.add(counted.sure | counted.maybe)
        self._unknown += counted.rows
        self.measured += counted.measured
        self.prompt_bytes += counted.prompt_bytes

    @property
    def least(self) -> int:
        return self._sure.count()

    @property
    def most(self) -> int:
        return self._all.count() + self._unknown

    @property
    def calls(self) -> tuple[int, int]:
        """Least and most calls; equal where each row takes one call."""
        if not self.stage.spec.model:
            return 0, 0
        low, high = self.stage.calls
        if high is None:
            high = _GUESSED_CALLS * max(1, len(self.stage.graph.nodes) - 1)
        return max(self.least * low, self._asking.count()), self.most * high


@dataclass
class CallCount:
    """The decisions with the rows that changed, and the counts of each graph stage."""

    decisions: list[Decision]
    stages: list[StageCount]

    @property
    def running(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.run]

    @property
    def rows(self) -> int:
        return sum(decision.rows for decision in self.running)

    @property
    def changes(self) -> RowChanges:
        return sum((decision.moved for decision in self.running), RowChanges())

    @property
    def calls(self) -> tuple[int, int]:
        return sum(count.calls[0] for count in self.stages), sum(count.calls[1] for count in self.stages)


def count_calls(
    job: Job,
    store: Store,
    decided: Sequence[Decision],
    *,
    fresh: bool = False,
    note: Note = unnoted,
    published: pl.DataFrame | None = None,
) -> CallCount:
    """Count for all partitions that would run. `published`: the catalogue of all, if it was read already. Raises
    InputChanged, StoreError."""
    if not fresh and any(decision.run for decision in decided):
        index_answers(job, store, note, published=published)
    stages = [StageCount(stage) for stage in graph_stages(job.stages)]
    entries = job.snapshot.entries_of([d.partition for d in decided if d.run or d.rows_may_differ])

    others = other_journals(job, store)
    reading = Reading(job, store, others, CallProbe(None if fresh else CallFinder.of(others)), fresh, note)
    found = list(decided)
    examined = [index for index, decision in enumerate(found) if decision.run or decision.rows_may_differ]
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="tandem-forecast") as threads:
        for some in _looked_up_together(examined, found):
            with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
                counting = [
                    PartitionCount(reading, found[index], entries[found[index].partition], Path(folder) / f"{index}")
                    for index in some
                ]
                for index, changes in zip(some, threads.map(PartitionCount.prepare, counting), strict=True):
                    found[index] = replace(found[index], changes=changes)
                places = others.places({one.partition: one.needed for one in counting})
                for counts in threads.map(
                    PartitionCount.rows_to_call, counting, (places[one.partition] for one in counting)
                ):
                    for count, more in zip(stages, counts, strict=False):
                        count.add(more)
    return CallCount(found, stages)


def _looked_up_together(examined: Sequence[int], decided: Sequence[Decision]) -> Iterator[list[int]]:
    """Yield partitions whose answers are looked up in the index at once: each look reads most of its row groups."""
    some, rows = list[int](), 0
    for index in examined:
        some.append(index)
        rows += decided[index].rows
        if rows >= _ROWS_AT_ONCE or len(some) == _PARTITIONS_AT_ONCE:
            yield some
            some, rows = [], 0
    if some:
        yield some
