"""What a run would find and have to ask, counted before any money. Reads the input and the journal, writes nothing.

Rows are compared with the current generation's index. Then each batch goes through the stages as it would in a run,
with the answers that are known. A row that has to be asked is followed with what is sure of it: later stages then have
ranges.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pipeline.enrichment.join_rows import wanted_of
from pipeline.journal import compacted, join, segments
from pipeline.journal.join import has_journal
from pipeline.planning import batches
from pipeline.planning.batches import dealt_batches
from pipeline.planning.job import Job
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas.errors import ObjectMissing, RowError
from schemas.plan import Decision, RowChanges
from schemas.staging import PlannedBatch
from schemas.tables import answer_columns, conform, stored_schema
from stages.contract import ROW, Answered, AnyStage, GraphStage, TableStage
from stages.execution.replay import replay
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.known import Known
from stages.journal.segments import decode_segment

Note = Callable[[int], None]
_THREADS = min(4, os.cpu_count() or 1)  # each holds what it counts of a partition
_GUESSED_CALLS = 3  # of each node, where a graph does not say how often it asks


@dataclass
class StageCount:
    """Of one graph stage: how many different rows it would be asked for, and the size of the prompts that were
    rendered."""

    stage: GraphStage
    least: int = 0
    most: int = 0
    measured: int = 0
    prompt_bytes: int = 0

    @property
    def calls(self) -> tuple[int, int]:
        """Exact where each row takes one call."""
        if not self.stage.spec.model:
            return 0, 0
        low, high = self.stage.calls
        if high is None:
            high = _GUESSED_CALLS * max(1, len(self.stage.graph.nodes) - 1)
        return self.least * low, self.most * high


@dataclass
class CallCount:
    """The decisions with the rows that moved, and per graph stage what it would be asked."""

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
    job: Job, store: Store, decided: Sequence[Decision], *, fresh: bool = False, note: Note = lambda rows: None
) -> CallCount:
    """Count for all partitions that would run. Raises InputChanged, StoreError."""
    stages = [StageCount(stage) for stage in job.stages if isinstance(stage, GraphStage)]
    entries = job.snapshot.entries_of([d.partition for d in decided if d.run or d.rows_may_differ])

    def one(at: int) -> tuple[int, Decision, list[_CountedRows]]:
        decision = found[at]
        counting = _PartitionCount(job, store, decision, entries[decision.partition], fresh, note)
        changed = replace(decision, changes=counting.changes())
        return at, changed, counting.asked() if decision.run else []

    found = list(decided)
    looked_at = [at for at, decision in enumerate(found) if decision.run or decision.rows_may_differ]
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="tandem-forecast") as threads:
        for at, decision, asked in threads.map(one, looked_at):
            found[at] = decision
            for count, more in zip(stages, asked, strict=False):
                count.least += len(more.sure)
                count.most += len(more.sure | more.maybe) + more.rows
                count.measured += more.measured
                count.prompt_bytes += more.prompt_bytes
    return CallCount(found, stages)


@dataclass
class _CountedRows:
    """Row fingerprints that a stage would be asked for: surely, or perhaps; `rows` more at most, of which nothing is
    known yet. By their hashes, which take a third of the memory: they are only counted."""

    sure: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)
    rows: int = 0
    measured: int = 0
    prompt_bytes: int = 0


class _PartitionCount:
    """One partition."""

    def __init__(self, job: Job, store: Store, decision: Decision, entry: Entry, fresh: bool, note: Note) -> None:
        self.job, self.store, self.entry, self.note = job, store, entry, note
        self.decision = decision
        self.fresh = fresh
        self.answered: set[int] = set()  # hashes, too
        size = batches.batch_rows(min(decision.rows, entry.rows), job.spec.limits.batch_rows)
        self.batches = dealt_batches(entry, size, decision.rows)

    def changes(self) -> RowChanges:
        """The partition's rows against those of its current generation."""
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

    def asked(self) -> list[_CountedRows]:
        """What each graph stage would be asked."""
        asked = [_CountedRows() for stage in self.job.stages if isinstance(stage, GraphStage)]
        if not self.fresh and has_journal(self.store, self.entry.partition):
            self.answered = self._answered()
        with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
            files = self._known(Path(folder))
            for number, batch in enumerate(self.batches):
                records = decode_segment(files[number].read_bytes()).records if number in files else []
                _FollowedBatch(self.job, self._left(batch), Known(records)).through(asked)
                self.note(batch.rows)
        return asked

    def _answered(self) -> set[int]:
        """Where a row's fingerprint alone tells that it takes no call, those that are known: read without answers."""
        stages = [stage for stage in self.job.stages if isinstance(stage, GraphStage)]
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
        """The rows of a batch that have to be followed."""
        rows = self._read(batch)
        if not self.answered:
            return rows
        reads = next(stage.reads for stage in self.job.stages if isinstance(stage, GraphStage))
        left = [hash(row) not in self.answered for row in fingerprints(rows, reads)]
        return rows.filter(pl.Series(left, dtype=pl.Boolean))

    def _known(self, folder: Path) -> dict[int, Path]:
        """What the journal knows of the rows that are followed, joined as `open` does."""
        partition = self.entry.partition
        if self.fresh or not self.batches or not has_journal(self.store, partition):
            return {}
        wanted = pl.concat([wanted_of(self.job, self._left(batch), at) for at, batch in enumerate(self.batches)])
        return join.split_by_batch(self.store, partition, wanted, folder)[0] if wanted.height else {}


_INDEX = {"row_id": pl.String, "content": pl.String}


def _index(store: Store, key: str) -> pl.DataFrame:
    try:
        with store.open_input(key) as source:
            return pl.DataFrame(table_of(source, columns=list(_INDEX)))
    except ObjectMissing:
        return pl.DataFrame(schema=_INDEX)


def compared(before: pl.DataFrame, now: pl.DataFrame) -> RowChanges:
    """Rows by identity, of equal ones by occurrence; `content` tells whether a row changed."""
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


class _FollowedBatch:
    """One batch on its way. `sure` rows arrive, with all their columns known; of `open` ones an earlier answer is still
    to be asked: the frame has what is known of them, and some may have left by then."""

    def __init__(self, job: Job, rows: pl.DataFrame, known: Known) -> None:
        self.job = job
        self.known = known
        self.ids = row_ids(rows, job.spec.source.key)
        self.sure = rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))
        self.open = self.sure.clear()
        self.open_may_leave = False
        self.columns = job.snapshot.schema
        self.called = {record.id for record in known.calls.values()}

    def through(self, asked: Sequence[_CountedRows]) -> None:
        """As far as the last graph stage: what follows it asks nothing."""
        last = max((at for at, stage in enumerate(self.job.stages) if isinstance(stage, GraphStage)), default=-1)
        counts = iter(asked)
        for at, stage in enumerate(self.job.stages[: last + 1]):
            if isinstance(stage, GraphStage):
                self._graph(stage, next(counts), last=at == last)
            else:
                self._table(stage)

    def _graph(self, stage: GraphStage, asked: _CountedRows, *, last: bool) -> None:
        prints, answers = self._answers(stage, self.sure, asked)
        to_ask = {row for row in prints if row not in answers}
        asked.sure.update(map(hash, to_ask))
        self._open_ones(stage, asked)
        if last:
            return
        waits = pl.Series([row in to_ask for row in prints], dtype=pl.Boolean)
        found = [answers.get(row) for row in prints]
        self._open(stage, self.sure.filter(waits))
        self._take(stage, self.sure.filter(~waits), [a for a, wait in zip(found, waits, strict=True) if not wait])

    def _answers(
        self, stage: GraphStage, rows: pl.DataFrame, asked: _CountedRows
    ) -> tuple[list[str], dict[str, dict[str, Any] | None]]:
        """The rows' fingerprints, and the answers that need no call: None for a reject."""
        prints = fingerprints(rows, stage.reads)
        positions = rows[ROW].to_list()
        values = rows.select(stage.reads)
        answers: dict[str, dict[str, Any] | None] = {}
        replays: list[tuple[str, str, dict[str, Any]]] = []
        for at, row in enumerate(prints):
            if row in answers or hash(row) in asked.sure or hash(row) in asked.maybe:
                continue
            record = self.known.rows.get((stage.fingerprint, row))
            if record is not None:
                answers[row] = orjson.loads(record.answer or "{}") if record.status == "ok" else None
                continue
            try:
                prepared = stage.prepare(values.row(at, named=True) if stage.reads else {})
            except RowError:
                answers[row] = None
                continue
            if isinstance(prepared, Answered):
                answers[row] = prepared.answer
                continue
            if stage.calls == (1, 1) and (id := self.ids[positions[at]]) in self.called:
                replays.append((row, id, prepared))
            asked.measured += 1
            asked.prompt_bytes += _size(prepared)
        if replays:
            answers |= asyncio.run(replay(stage, self.known, replays))
        return prints, answers

    def _open_ones(self, stage: GraphStage, asked: _CountedRows) -> None:
        if not self.open.height:
            return
        if not set(stage.reads) <= set(self.open.columns):
            asked.rows += self.open.height
            return
        prints, answers = self._answers(stage, self.open, asked)
        counted = asked.maybe if self.open_may_leave else asked.sure
        counted.update(hash(row) for row in prints if row not in answers)

    def _open(self, stage: GraphStage, waiting: pl.DataFrame) -> None:
        """Rows join those of which something is not known; what this stage writes is not known of any of them."""
        before = self.open if self.open.height else waiting.clear()
        gone = {*stage.fields, *stage.spec.drop}
        kept = [name for name in before.columns if name in waiting.columns and name not in gone]
        self.open = pl.concat([before.select(kept), waiting.select(kept)])
        self.open_may_leave |= bool(self.open.height) and stage.spec.on_reject == "drop"

    def _take(self, stage: GraphStage, rows: pl.DataFrame, answers: list[dict[str, Any] | None]) -> None:
        columns = answer_columns(answers, stage.fields)
        frame = rows.with_columns(pl.Series(name, values) for name, values in columns.items())
        if stage.spec.on_reject == "drop":
            frame = frame.filter(pl.Series([answer is not None for answer in answers], dtype=pl.Boolean))
        self._after(stage, frame)

    def _table(self, stage: TableStage) -> None:
        if stage.run_on_partition is not None:  # it waits for all rows, so nothing is known of any
            self.open = pl.concat([self.open.select(ROW), self.sure.select(ROW)])
            self.sure, self.columns = self.sure.clear(), stage.columns_after(self.columns)
        else:
            parts = stage.spec.options.get("column") if stage.spec.uses == "explode" else None
            self.open = stage.apply(self.open) if parts in self.open.columns else self.open.select(ROW)
            if stage.reject_reason is not None and stage.spec.on_reject == "drop":
                self.sure = self.sure.filter(stage.reject_reason(self.sure).is_null())
            self._after(stage, stage.apply(self.sure))
        self.open_may_leave = bool(self.open.height)

    def _after(self, stage: AnyStage, frame: pl.DataFrame) -> None:
        """The declared columns, as in a run."""
        self.columns = stored_schema(stage.columns_after(self.columns))
        rows = frame[ROW]
        self.sure = pl.DataFrame(conform(frame.drop(ROW).to_arrow(), self.columns)).with_columns(rows)


def _size(prepared: Mapping[str, Any]) -> int:
    messages = prepared.get("messages", [])
    try:
        return sum(len(str(message.content).encode()) for message in messages) or len(str(prepared).encode())
    except AttributeError:
        return len(str(prepared).encode())
