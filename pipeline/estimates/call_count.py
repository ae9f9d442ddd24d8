"""Count the rows and calls of a run before it costs money. Reads the input and the journal, writes nothing.

Rows are compared with the current generation's index. Then each batch goes through the stages as it would in a run,
with the answers that are known. A row that needs a call is followed with its known values: later stages then have
ranges.
"""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline.enrichment.join_rows import join_keys
from pipeline.estimates.followed_batch import CountedRows, FollowedBatch
from pipeline.journal import compacted, join, segments
from pipeline.journal.join import has_journal
from pipeline.planning import batches
from pipeline.planning.batches import equal_batches
from pipeline.planning.job import Job
from pipeline.progress_note import Note, unnoted
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas.errors import ObjectMissing
from schemas.plan import Decision, RowChanges
from schemas.staging import PlannedBatch
from stages.contract import GraphStage, graph_stages
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.known import Known
from stages.journal.segments import decode_segment

_THREADS = min(4, os.cpu_count() or 1)  # each holds what it counts of a partition
_GUESSED_CALLS = 3  # of each node, where a graph does not declare its number of calls


@dataclass
class StageCount:
    """Counts of one graph stage: the different rows that need it, and the size of the prompts that were rendered."""

    stage: GraphStage
    least: int = 0
    most: int = 0
    measured: int = 0
    prompt_bytes: int = 0

    @property
    def calls(self) -> tuple[int, int]:
        """Least and most calls; equal where each row takes one call."""
        if not self.stage.spec.model:
            return 0, 0
        low, high = self.stage.calls
        if high is None:
            high = _GUESSED_CALLS * max(1, len(self.stage.graph.nodes) - 1)
        return self.least * low, self.most * high


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
    job: Job, store: Store, decided: Sequence[Decision], *, fresh: bool = False, note: Note = unnoted
) -> CallCount:
    """Count for all partitions that would run. Raises InputChanged, StoreError."""
    stages = [StageCount(stage) for stage in graph_stages(job.stages)]
    entries = job.snapshot.entries_of([d.partition for d in decided if d.run or d.rows_may_differ])

    def one(index: int) -> tuple[int, Decision, list[CountedRows]]:
        decision = found[index]
        counting = _PartitionCount(job, store, decision, entries[decision.partition], fresh, note)
        changed = replace(decision, changes=counting.changes())
        return index, changed, counting.rows_to_call() if decision.run else []

    found = list(decided)
    examined = [index for index, decision in enumerate(found) if decision.run or decision.rows_may_differ]
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="tandem-forecast") as threads:
        for index, decision, counts in threads.map(one, examined):
            found[index] = decision
            for count, more in zip(stages, counts, strict=False):
                count.least += len(more.sure)
                count.most += len(more.sure | more.maybe) + more.rows
                count.measured += more.measured
                count.prompt_bytes += more.prompt_bytes
    return CallCount(found, stages)


class _PartitionCount:
    """One partition."""

    def __init__(self, job: Job, store: Store, decision: Decision, entry: Entry, fresh: bool, note: Note) -> None:
        self.job, self.store, self.entry, self.note = job, store, entry, note
        self.decision = decision
        self.fresh = fresh
        self.answered: set[int] = set()  # hashes, too
        size = batches.batch_rows(min(decision.rows, entry.rows), job.spec.limits.batch_rows)
        self.batches = equal_batches(entry, size, decision.rows)

    def changes(self) -> RowChanges:
        """Compare the partition's rows with those of its current generation."""
        rows, index = self.decision.rows, self.decision.index
        if index is None:
            return RowChanges(new=rows)
        if not self.decision.rows_may_differ:
            return RowChanges(unchanged=rows)
        key = self.job.spec.source.key
        parts = []
        for batch in self.batches:
            read = self._read(batch)
            parts.append(pl.DataFrame({"row_id": row_ids(read, key), "content": fingerprints(read, read.columns)}))
        return compared(_index(self.store, index), pl.concat(parts) if parts else pl.DataFrame(schema=_INDEX))

    def _read(self, batch: PlannedBatch) -> pl.DataFrame:
        return self.job.snapshot.read(self.entry.partition, batch.ranges)

    def rows_to_call(self) -> list[CountedRows]:
        """Count, for each graph stage, the rows that need a call."""
        counts = [CountedRows() for _ in graph_stages(self.job.stages)]
        if not self.fresh and has_journal(self.store, self.entry.partition):
            self.answered = self._answered()
        with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
            files = self._known(Path(folder))
            for number, batch in enumerate(self.batches):
                records = decode_segment(files[number].read_bytes()).records if number in files else []
                FollowedBatch(self.job, self._left(batch), Known(records)).through(counts)
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

    def _left(self, batch: PlannedBatch) -> pl.DataFrame:
        """Return the rows of a batch that have to be followed."""
        rows = self._read(batch)
        if not self.answered:
            return rows
        first = graph_stages(self.job.stages)[0]
        left = [hash(row) not in self.answered for row in fingerprints(rows, first.reads)]
        return rows.filter(pl.Series(left, dtype=pl.Boolean))

    def _known(self, folder: Path) -> dict[int, Path]:
        """Load the journal's records of the rows that are followed, joined as `open` does."""
        partition = self.entry.partition
        if self.fresh or not self.batches or not has_journal(self.store, partition):
            return {}
        keys = pl.concat([join_keys(self.job, self._left(batch), number) for number, batch in enumerate(self.batches)])
        return join.split_by_batch(self.store, partition, keys, folder)[0] if keys.height else {}


_INDEX = {"row_id": pl.String, "content": pl.String}


def _index(store: Store, key: str) -> pl.DataFrame:
    try:
        with store.open_input(key) as source:
            return pl.DataFrame(table_of(source, columns=list(_INDEX)))
    except (ObjectMissing, OSError, pa.ArrowException):  # damaged: it is derived, and all rows count as new
        return pl.DataFrame(schema=_INDEX)


def compared(before: pl.DataFrame, now: pl.DataFrame) -> RowChanges:
    """Compare rows by identity, and equal ones by occurrence; a row with another `content` has changed."""
    numbered = pl.int_range(pl.len()).over("row_id").alias("occurrence")
    both = now.with_columns(numbered).join(
        before.with_columns(numbered), on=["row_id", "occurrence"], how="inner", suffix="_before"
    )
    changed = both.filter(pl.col("content") != pl.col("content_before")).height
    return RowChanges(
        new=now.height - both.height,
        changed=changed,
        unchanged=both.height - changed,
        removed=before.height - both.height,
    )
