"""A partition's rows joined with its journal: keys must be unique, and answered rows need no call."""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.enrichment.attempt import PartitionRun
from pipeline.enrichment.selection import duplicate_keys
from pipeline.journal.answers.elsewhere import Needed
from pipeline.journal.compacted import HELD_BYTES
from pipeline.journal.join import JournalJoin, collect, hashed
from pipeline.planning.batches import BATCH_BYTES, MOST_BATCH_ROWS, batches_over, cut, equal_batches, rows_within
from pipeline.planning.job import Job, source_stages
from schemas import ids
from schemas.staging import PlannedBatch
from stages.contract import GraphStage, graph_stages
from stages.execution.row_prints import row_prints
from stages.journal.fingerprints import row_ids
from stages.journal.segments import line_of, segment_of


@dataclass(frozen=True)
class RowKeys:
    """The keys by which rows are joined with journals, hashed: identities, and a fingerprint for each stage that reads
    the source's columns."""

    ids: pl.Series
    prints: Sequence[pl.Series]
    job: Job

    @classmethod
    def of(cls, job: Job, rows: pl.DataFrame) -> "RowKeys":
        ids = row_ids(rows, job.spec.source.key)
        return cls(hashed(ids), [hashed(row_prints(stage, rows, ids)) for stage in source_stages(job)], job)

    @property
    def all(self) -> list[pl.Series]:
        return [self.ids, *self.prints]

    def answered(self, journals: Sequence[JournalJoin]) -> pl.Series:
        """Return True for each row that needs no call. Stages that read other stages' columns are unknown here."""
        answered = pl.repeat(not self._has_later_stages, len(self.ids), dtype=pl.Boolean, eager=True)
        for stage, column in zip(source_stages(self.job), self.prints, strict=True):
            known = pl.repeat(False, len(column), dtype=pl.Boolean, eager=True)
            for joined in journals:
                known |= joined.answered(stage.fingerprint, column)
            answered &= known
        return answered

    def needed(self, own: JournalJoin | None) -> Needed:
        """Return what the rows' own journal lacks: rows without an answer in a stage, and those whose later stages are
        unknown here, if it has nothing of them."""
        if own is None:
            stages = zip(source_stages(self.job), self.prints, strict=True)
            return Needed(self.ids, [(stage.fingerprint, column) for stage, column in stages])
        missing = pl.repeat(False, len(self.ids), dtype=pl.Boolean, eager=True)
        if self._has_later_stages:
            missing = ~own.has_rows(self.ids)
        rows = []
        for stage, column in zip(source_stages(self.job), self.prints, strict=True):
            lacks = ~own.answered(stage.fingerprint, column, ok=True)
            rows.append((stage.fingerprint, column.filter(lacks)))
            missing |= lacks
        return Needed(self.ids.filter(missing), rows)

    @property
    def _has_later_stages(self) -> bool:
        """True if a stage reads columns of another one: its rows are unknown before that one has run."""
        return len(source_stages(self.job)) < len(graph_stages(self.job.stages))


class RowJoin:
    """A partition's rows joined with its journal. They are read once, some at a time: keys must be unique, and answered
    rows are put into larger batches, without the calls that led to their answers."""

    def __init__(self, work: PartitionRun, rows: int) -> None:
        self._job = work.job
        self._store = work.store
        self._entry = work.entry
        self._run = work.plan.run
        self._rows = rows
        self._most = rows_within(BATCH_BYTES, work.job.snapshot.row_bytes(work.entry), MOST_BATCH_ROWS)
        self._note = work.note
        self._others = work.others
        self._stages = source_stages(work.job)
        self._keys: list[pl.Series] = []

    def refuse_duplicates(self) -> None:
        """Read the rows' identities only. Raises DuplicateKeys, InputChanged."""
        self._refuse_equal(self._columns([self._identities])[0])

    def read(self) -> None:
        """Read the rows' identities and fingerprints. Raises DuplicateKeys, InputChanged."""
        prints = [partial(self._prints, stage) for stage in self._stages]
        self._keys = self._columns([self._identities, *prints])
        if self._job.spec.source.key:
            self._refuse_equal(self._keys[0])

    def _identities(self, rows: pl.DataFrame) -> list[str]:
        return row_ids(rows, self._job.spec.source.key)

    def _prints(self, stage: GraphStage, rows: pl.DataFrame) -> list[str]:
        return row_prints(stage, rows, self._identities(rows) if not stage.spec.share else [])

    def _frames(self) -> Iterator[pl.DataFrame]:
        for batch in equal_batches(self._entry, self._most, self._rows):
            yield self._job.snapshot.read(self._entry.partition, batch.ranges)

    def _columns(self, functions: Sequence[Callable[[pl.DataFrame], list[str]]]) -> list[pl.Series]:
        """Return the hashes of each function's value of each row, a column per function."""
        parts = [[hashed([])] for _ in functions]
        for rows in self._frames():
            for column, function in zip(parts, functions, strict=True):
                column.append(hashed(function(rows)))
            self._note(rows.height)
        return [pl.concat(column) for column in parts]

    def _refuse_equal(self, identities: pl.Series) -> None:
        """Raise DuplicateKeys where two identities that share a hash are the same."""
        doubtful = set(identities.filter(identities.is_duplicated()).to_list())
        seen: set[str] = set()
        for rows in self._frames() if doubtful else ():
            found = self._identities(rows)
            for row, (identity, key) in enumerate(zip(found, hashed(found), strict=True)):
                if key not in doubtful:
                    continue
                if identity in seen:
                    columns = self._job.spec.source.key
                    raise duplicate_keys(self._entry.partition, {name: rows[name][row] for name in columns})
                seen.add(identity)

    def batches_with_records(self, size: int, folder: str, local: Path) -> tuple[list[PlannedBatch], list[str]]:
        """Return the batches, each with the objects of its rows' known records, and damaged parts of the journal."""
        rows = RowKeys(self._keys[0], self._keys[1:], self._job)
        keys = rows.all
        own = collect([(self._store, self._entry.partition)], pl.concat(keys), local)
        needed = rows.needed(own)
        places = self._others.places({self._entry.partition: needed})[self._entry.partition]
        other = self._others.collect(places, needed, local)
        answered = rows.answered([own] if other is None else [own, other])
        sizes = self._sizes(answered, size)
        batches = batches_over(self._entry, sizes)
        batch = pl.Series("batch", [number for number, rows in enumerate(sizes) for _ in range(rows)], dtype=pl.Int64)
        required = pl.concat(pl.DataFrame([batch, key, (~answered).alias("calls")]) for key in keys)
        if other is not None:
            self._carry(other, pl.concat(keys))
        files = [("known", own)] if other is None else [("known", own), ("elsewhere", other)]
        for kind, joined in files:
            for number, path in joined.by_batch(required, local, kind).items():
                with path.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                target = ids.staged(folder, number, kind, content, "jsonl")
                self._store.upload(target, path)
                batches[number] = batches[number].model_copy(update={kind: target})
                self._note(0)
        return batches, own.damage

    def _carry(self, other: JournalJoin, keys: pl.Series) -> None:
        """Copy what led to the rows' outcomes into the partition's own journal: it must be whole by itself. The
        outcomes themselves are copied by the batches that use them."""
        held, size = list[bytes](), 0
        for bodies in other.to_carry(keys):
            for body in bodies:
                held.append(line_of(body))
                size += len(held[-1])
                if size >= HELD_BYTES:
                    self._put_carried(held)
                    held, size = [], 0
            self._note(0)
        if held:
            self._put_carried(held)

    def _put_carried(self, lines: list[bytes]) -> None:
        key = ids.journal_carried(self._entry.partition, self._run, uuid.uuid4().hex)
        self._store.put_absent(key, segment_of(lines))

    def _sizes(self, answered: pl.Series, size: int) -> list[int]:
        if self._job.spec.limits.batch_rows is not None:
            return [min(size, self._rows - start) for start in range(0, self._rows, size)]
        return cut((~answered).to_list(), size, max(size, self._most))
