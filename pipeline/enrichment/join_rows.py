"""A partition's rows joined with its journal: keys must be unique, and answered rows need no call."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.enrichment.attempt import PartitionRun
from pipeline.enrichment.row_digests import CONTENT, IDENTITY, RowDigests, add_published, fingerprints_of
from pipeline.enrichment.selection import duplicate_keys
from pipeline.journal.answers.elsewhere import Needed
from pipeline.journal.join import JournalJoin, collect, hashed
from pipeline.journal.record_frames import HELD_BYTES
from pipeline.planning.batches import (
    BATCH_BYTES,
    MOST_ANSWERED_ROWS,
    MOST_BATCH_ROWS,
    batches_over,
    cut,
    equal_batches,
    rows_within,
)
from pipeline.planning.job import Job, source_stages
from pipeline.stores.scratch_folder import ScratchFolder
from schemas import ids
from schemas.digests import file_sha256
from schemas.staging import PlannedBatch
from stages.contract import graph_stages
from stages.execution.row_prints import row_prints
from stages.journal.fingerprints import digests, row_ids
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

    def __init__(self, work: PartitionRun, rows: int, folder: ScratchFolder) -> None:
        self._work = work
        self._job = work.job
        self._store = work.store
        self._entry = work.entry
        self._rows = rows
        self._folder = folder
        row_bytes = work.job.snapshot.row_bytes(work.entry)
        self._most = rows_within(BATCH_BYTES, row_bytes, MOST_BATCH_ROWS)
        self._most_answered = rows_within(BATCH_BYTES, row_bytes, MOST_ANSWERED_ROWS)
        self._stages = source_stages(work.job)
        self._digests = RowDigests(folder, rows)

    def refuse_duplicates(self) -> None:
        """Read the rows' identities only. Raises DuplicateKeys, InputChanged."""
        for rows in self._frames():
            self._digests.add(IDENTITY, self._identities(rows))
            self._work.note(rows.height)
        self._refuse_equal(self._digests.keys(IDENTITY))

    def read(self) -> None:
        """Read the rows' identities and fingerprints. Raises DuplicateKeys, InputChanged."""
        known = add_published(self._digests, self._work, self._rows)
        for rows in self._frames():
            ids = b"" if known and all(stage.spec.share for stage in self._stages) else self._identities(rows)
            if not known:
                self._digests.add(IDENTITY, ids)
            for stage in {stage.fingerprint: stage for stage in self._stages}.values():
                self._digests.add(stage.fingerprint, fingerprints_of(stage, rows, ids))
            self._work.note(rows.height)
        if self._job.spec.source.key:
            self._refuse_equal(self._digests.keys(IDENTITY))

    def _identities(self, rows: pl.DataFrame) -> bytes:
        return digests(rows, self._job.spec.source.key or rows.columns)

    def _frames(self) -> Iterator[pl.DataFrame]:
        for batch in equal_batches(self._entry, self._most_answered, self._rows):
            yield self._job.snapshot.read(self._entry.partition, batch.ranges)

    def _refuse_equal(self, identities: pl.Series) -> None:
        """Raise DuplicateKeys where two identities that share a key are the same."""
        doubtful = set(identities.filter(identities.is_duplicated()).to_list())
        seen: set[str] = set()
        for rows in self._frames() if doubtful else ():
            found = row_ids(rows, self._job.spec.source.key)
            for row, (identity, key) in enumerate(zip(found, hashed(found), strict=True)):
                if key not in doubtful:
                    continue
                if identity in seen:
                    columns = self._job.spec.source.key
                    raise duplicate_keys(self._entry.partition, {name: rows[name][row] for name in columns})
                seen.add(identity)

    def batches_with_records(self, size: int, staging: str, *, journal: bool) -> tuple[list[PlannedBatch], list[str]]:
        """Return the batches, each with the objects of its rows' digests and known records, and damaged parts of the
        partition's own `journal`, if it has one."""
        prints = [self._digests.keys(stage.fingerprint) for stage in self._stages]
        rows = RowKeys(self._digests.keys(IDENTITY), prints, self._job)
        keys = rows.all
        mine = [(self._store, self._entry.partition)]
        own = collect(mine, pl.concat(keys), self._folder.path) if journal else None
        needed, others = rows.needed(own), self._work.others
        places = others.places({self._entry.partition: needed})[self._entry.partition]
        other = others.collect(places, needed, self._folder.path) if places else None
        joined_by_kind = {kind: one for kind, one in (("known", own), ("elsewhere", other)) if one is not None}
        answered = rows.answered(list(joined_by_kind.values()))
        sizes = self._sizes(answered, size)
        batches = batches_over(self._entry, sizes)
        if not joined_by_kind:  # as for most partitions of a first run
            return batches, []
        batch = pl.Series("batch", np.repeat(np.arange(len(sizes)), sizes), dtype=pl.Int64)
        required = pl.concat(pl.DataFrame([batch, key, (~answered).alias("calls")]) for key in keys)
        if other is not None:
            self._carry(other, pl.concat(keys))
        for kind, joined in joined_by_kind.items():
            for number, path in joined.by_batch(required, self._folder.path, kind).items():
                target = ids.staged(staging, number, kind, file_sha256(path), "arrow")
                self._store.upload(target, path)
                batches[number] = batches[number].model_copy(update={kind: target})
                self._work.note(0)
        return self._with_digests(batches, staging), own.damage if own is not None else []

    def _with_digests(self, batches: Sequence[PlannedBatch], staging: str) -> list[PlannedBatch]:
        """Stage the digests of the batches that have known records."""
        prints = [stage.fingerprint for stage in self._stages]
        found, start = list[PlannedBatch](), 0
        for number, batch in enumerate(batches):
            target = None
            if batch.known is not None:
                data = self._digests.encoded(start, batch.rows, [IDENTITY, CONTENT, *prints])
                target = ids.staged(staging, number, "digests", hashlib.sha256(data).hexdigest(), "arrow")
                self._store.put_absent(target, data)
            found.append(batch.model_copy(update={"digests": target}))
            start += batch.rows
        return found

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
            self._work.note(0)
        if held:
            self._put_carried(held)

    def _put_carried(self, lines: list[bytes]) -> None:
        key = ids.journal_carried(self._entry.partition, self._work.plan.run, uuid.uuid4().hex)
        self._store.put_absent(key, segment_of(lines))

    def _sizes(self, answered: pl.Series, size: int) -> list[int]:
        if self._job.spec.limits.batch_rows is not None:
            return [min(size, self._rows - start) for start in range(0, self._rows, size)]
        return cut((~answered).to_list(), size, max(size, self._most), max(size, self._most_answered))
