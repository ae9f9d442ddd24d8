"""Count the rows and calls of a run before it costs money. Reads the input and the journal, writes nothing but
indexes.

Rows are compared with the current generation's index. Then each batch goes through the stages as it would in a run,
with the answers that are known. A row that needs a call is followed with its known values: later stages then have
ranges.
"""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.enrichment.join_rows import RowKeys
from pipeline.enrichment.selection import RowSelection, of_selected
from pipeline.estimates.followed_batch import CallProbe, CountedRows, FollowedBatch
from pipeline.estimates.row_changes import row_changes
from pipeline.journal import compacted, segments
from pipeline.journal.answers.calls import CallFinder
from pipeline.journal.join import collect, has_journal
from pipeline.journal.spool import Spools
from pipeline.planning import batches
from pipeline.planning.batches import equal_batches
from pipeline.planning.job import Job
from pipeline.planning.known_answers import index_answers, other_journals
from pipeline.progress_note import Note, unnoted
from pipeline.settings import current
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from pipeline.stores.local import LocalStore
from schemas.plan import Decision, RowChanges
from schemas.staging import PlannedBatch, StagedFile
from stages.contract import GraphStage, graph_stages
from stages.execution.row_prints import row_prints
from stages.execution.unsettled import is_shareable
from stages.journal.fingerprints import row_ids
from stages.journal.known import Known
from stages.journal.records import Record
from stages.journal.segments import decode_segment

_THREADS = min(4, os.cpu_count() or 1)  # each holds what it counts of a partition
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

    probe = CallProbe(None if fresh else CallFinder.of(other_journals(job, store)))

    def one(index: int) -> tuple[int, Decision, list[CountedRows]]:
        decision = found[index]
        counting = _PartitionCount(job, store, decision, entries[decision.partition], fresh, note, probe)
        changed = replace(decision, changes=counting.changes())
        return index, changed, counting.rows_to_call() if decision.run else []

    found = list(decided)
    examined = [index for index, decision in enumerate(found) if decision.run or decision.rows_may_differ]
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="tandem-forecast") as threads:
        for index, decision, counts in threads.map(one, examined):
            found[index] = decision
            for count, more in zip(stages, counts, strict=False):
                count.add(more)
    return CallCount(found, stages)


class _PartitionCount:
    """One partition."""

    def __init__(
        self, job: Job, store: Store, decision: Decision, entry: Entry, fresh: bool, note: Note, probe: CallProbe
    ) -> None:
        self.job, self.store, self.entry, self.note, self.probe = job, store, entry, note, probe
        self.decision = decision
        self.fresh = fresh
        self.others = other_journals(job, store)
        self.answered: set[int] = set()  # hashes, too
        self._masks: dict[int, pl.Series] = {}  # of each batch, the rows that are left
        self.rows = min(decision.rows, entry.rows)
        size = batches.batch_rows(self.rows, job.spec.limits.batch_rows)
        self.batches = equal_batches(entry, size, decision.rows)

    def changes(self) -> RowChanges:
        """Compare the partition's rows with those of its current generation."""
        rows, index = self.decision.rows, self.decision.index
        if index is None:
            return RowChanges(new=rows)
        if not self.decision.rows_may_differ:
            return RowChanges(unchanged=rows)
        return row_changes(self.job, self.store, self.entry, self.rows, index, self.note)

    def _read(self, batch: PlannedBatch) -> pl.DataFrame:
        return self.job.snapshot.read(self.entry.partition, batch.ranges)

    def _select(self, folder: Path) -> None:
        """Leave out the rows that no stage with a model will see, if there are many."""
        folder.mkdir()
        selection = RowSelection.of(self.job, self.entry, self.rows, folder, self.note)
        found = selection.copy() if selection is not None else None
        if found is None:
            return
        copies = [StagedFile(key=path.name, sha256="", size=0, rows=rows) for path, rows in found.files]
        job = replace(self.job, snapshot=replace(self.job.snapshot, store=LocalStore(folder)))
        self.job = of_selected(job, self.entry.partition, copies)
        self.entry = self.job.snapshot.entry(self.entry.partition)
        self.batches = equal_batches(self.entry, batches.batch_rows(found.rows, None), found.rows)

    def rows_to_call(self) -> list[CountedRows]:
        """Count, for each graph stage, the rows that need a call."""
        counts = [CountedRows() for _ in graph_stages(self.job.stages)]
        if not self.fresh and has_journal(self.store, self.entry.partition):
            self.answered = self._answered()
        with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
            self._select(Path(folder) / "selected")
            known = self._known(Path(folder))
            for number, batch in enumerate(self.batches):
                known_here = Known(known.pop(number, ()))
                FollowedBatch(self.job, self._left(number, batch), known_here, self.probe).through(counts)
                self.note(batch.rows)
        return counts

    def _answered(self) -> set[int]:
        """Return the known rows whose fingerprint alone shows that they need no call: read without answers."""
        stages = graph_stages(self.job.stages)
        if len(stages) > 1 or self.job.stages[0] is not stages[0] or stages[0].calls != (1, 1):
            return set()
        found: set[int] = set()
        reading = segments.Reading()
        for chunk in compacted.everything(self.store, self.entry.partition, ["kind", "stage", "key"], reading):
            if chunk["kind"].eq("void").any():
                return set()
            mine = (pl.col("kind") == "row") & (pl.col("stage") == stages[0].fingerprint)
            found.update(map(hash, chunk.filter(mine)["key"].to_list()))
        return found

    def _left(self, number: int, batch: PlannedBatch) -> pl.DataFrame:
        """Return the rows of a batch that have to be followed."""
        rows = self._read(batch)
        if not self.answered:
            return rows
        if number not in self._masks:
            first = graph_stages(self.job.stages)[0]
            prints = row_prints(first, rows, row_ids(rows, self.job.spec.source.key))
            self._masks[number] = pl.Series([hash(row) not in self.answered for row in prints], dtype=pl.Boolean)
        return rows.filter(self._masks[number])

    def _known(self, folder: Path) -> dict[int, list[Record]]:
        """Load the records of the rows that are followed, by batch, joined as `open` does."""
        if self.fresh or not self.batches:
            return {}
        journal = has_journal(self.store, self.entry.partition)
        # Few: what was answered in the last second of a process that was killed on this machine. Its next run has them.
        spooled = Spools(current().spool_folder).records_of_the_dead(self.store.uri, self.entry.partition)
        found = {number: list(spooled) for number in range(len(self.batches))} if spooled else {}
        if not (journal or self.others.may_have_answers()):
            return found
        keys = [RowKeys.of(self.job, self._left(number, batch)) for number, batch in enumerate(self.batches)]
        rows = RowKeys(
            pl.concat(one.ids for one in keys),
            [pl.concat(prints) for prints in zip(*(one.prints for one in keys), strict=True)],
            self.job,
        )
        own = None
        if journal:
            own = collect([(self.store, self.entry.partition)], pl.concat(rows.all), folder)
        other = self.others.collect(self.entry.partition, rows.needed(own), folder, requests=False)
        sizes = [len(one.ids) for one in keys]
        batch = pl.Series("batch", [n for n, size in enumerate(sizes) for _ in range(size)], dtype=pl.Int64)
        wanted = pl.concat(pl.DataFrame([batch, key.alias("key")]) for key in rows.all).with_columns(calls=True)
        for kind, joined in (("known", own), ("elsewhere", other)):
            for number, path in (joined.by_batch(wanted, folder, kind) if joined is not None else {}).items():
                records = decode_segment(path.read_bytes()).records
                kept = records if kind == "known" else [record for record in records if is_shareable(record)]
                found.setdefault(number, []).extend(kept)
        return found
