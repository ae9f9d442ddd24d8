"""The rows of a partition that the stages before the first model keep, chosen before they are cut into batches.

These stages run as one lazy plan over the source, which reads only the columns that decide. What they keep is copied,
as the source has it, into files of small row groups; of the other rows only the identities are kept. Batches then apply
the same stages to the copies, so that a row's way through the stages is the same whether it was chosen before or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.planning.batches import MOST_BATCH_ROWS
from pipeline.planning.job import Job
from pipeline.progress_note import Note
from pipeline.sinks.identity_numbers import IdentityNumbers
from pipeline.sinks.row_files import INDEX, index_table, numbers_of
from pipeline.sources.readers import MAX_GROUP_ROWS
from pipeline.sources.row_scan import scan_rows
from pipeline.sources.snapshot import Entry
from pipeline.sources.split import STAGED_GROUP_BYTES, STAGED_GROUP_ROWS
from pipeline.stores.scratch_folder import Folder
from schemas.arrow_tables import empty_frame
from schemas.errors import DuplicateKeys
from schemas.staging import RowRange, StagedFile
from schemas.tables import conform, stored_schema
from stages.contract import ROW, TableStage
from stages.journal.fingerprints import DIGEST_BYTES
from stages.journal.fingerprints import digests as digests

_COPY_ROWS = 100_000  # of a file: its footer describes each row group
_INDEX_GROUP_ROWS, _INDEX_ROWS = 62_500, 250_000  # of a file: publication reads one at a time
Rows = npt.NDArray[np.int64]


@dataclass
class Selected:
    """Local files with the rows to enrich, and with the identities of all others; the rows of each."""

    files: list[tuple[Path, int]] = field(default_factory=list)
    filtered: list[tuple[Path, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.files)


@dataclass(frozen=True)
class RowSelection:
    """The first rows of a partition, to be chosen from. `folder` is empty."""

    job: Job
    entry: Entry
    ranges: Sequence[RowRange]
    folder: Folder
    note: Note

    @classmethod
    def of(cls, job: Job, entry: Entry, rows: int, folder: Folder, note: Note) -> "RowSelection | None":
        """Return the selection of the first `rows` rows; None where batches may as well read all of them."""
        if not job.selecting or rows <= MOST_BATCH_ROWS:
            return None
        return cls(job, entry, first_rows(entry.ranges, rows), folder, note)

    def select(self) -> Selected | None:
        """Copy the rows that the first stages keep; None where they keep most, or fail. Raises DuplicateKeys,
        InputChanged."""
        kept = self.kept()
        rows = sum(part.rows for part in self.ranges)
        if kept is None or 2 * len(kept) > rows:
            # Large row groups are no place to read batches from, so all rows are copied.
            if self.job.snapshot.largest_group(self.entry) <= MAX_GROUP_ROWS:
                return None
            kept = np.arange(rows) if kept is None else kept
        return self._copied(kept)

    def copy(self) -> Selected | None:
        """Do as `select`, for a reader that only counts: identities are neither kept nor compared."""
        kept = self.kept()
        return None if kept is None else self._copied(kept, identities=False)

    def kept(self) -> Rows | None:
        """Return the numbers of the rows that the stages keep; None if they fail on some: the batch that has these rows
        tells which stage, and may succeed, as a plan may test rows that an earlier stage leaves out."""
        snapshot = self.job.snapshot
        plan = scan_rows(snapshot, self.entry.partition, self.ranges, ROW, self.note)
        try:
            for stage in self.job.selecting:
                plan = _declared(stage, plan)
            kept = plan.select(ROW).collect(engine="streaming")[ROW].to_numpy()
        except pl.exceptions.PolarsError:
            return None
        return np.sort(kept)

    def _copied(self, kept: Rows, *, identities: bool = True) -> Selected:
        snapshot, key = self.job.snapshot, self.job.spec.source.key
        copies = _Files(self.folder / "rows", snapshot.file_schema, STAGED_GROUP_ROWS, _COPY_ROWS)
        index = _Files(self.folder / "filtered", INDEX, _INDEX_GROUP_ROWS, _INDEX_ROWS)
        numbers = IdentityNumbers(self.folder / "numbers")
        start = 0
        for rows in snapshot.frames(self.entry.partition, self.ranges):
            first, end = np.searchsorted(kept, [start, start + rows.height])
            chosen = kept[first:end] - start
            start += rows.height
            if len(chosen):
                copies.write(conform(rows[chosen].to_arrow(), snapshot.file_schema))
            if identities:
                found = digests(rows, key or rows.columns)
                if key:
                    numbers.add(numbers_of(found))
                index.write(index_table(_without(found, chosen), None))
            self.note(rows.height)
        if key and identities:
            self._refuse_equal(set(numbers.repeated().tolist()))
        return Selected(copies.close(), index.close())

    def _refuse_equal(self, doubtful: set[int]) -> None:
        """Raise DuplicateKeys where two identities whose numbers are equal are the same."""
        key, partition = self.job.spec.source.key, self.entry.partition
        seen: set[bytes] = set()
        for rows in self.job.snapshot.frames(partition, self.ranges, key) if doubtful else ():
            found = digests(rows, key)
            for row, number in enumerate(numbers_of(found).tolist()):
                identity = found[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
                if number in doubtful and identity in seen:
                    raise duplicate_keys(partition, rows.row(row, named=True))
                if number in doubtful:
                    seen.add(identity)


def of_selected(job: Job, partition: str, selected: Sequence[StagedFile]) -> Job:
    """Return the job with a partition that has only the copied rows, in files behind those of the snapshot."""
    first = len(job.snapshot.info.files)
    ranges = [RowRange(file=first + number, start=0, rows=file.rows) for number, file in enumerate(selected)]
    return replace(job, snapshot=job.snapshot.with_files(selected).with_ranges(partition, ranges))


def duplicate_keys(partition: str, key: Mapping[str, object]) -> DuplicateKeys:
    shown = ", ".join(f"{name}={value!r}" for name, value in key.items())
    return DuplicateKeys(
        f"{partition}: two rows have the key {shown}.",
        hint="Correct the source, add columns to source.key, or remove source.key.",
    )


def first_rows(ranges: Sequence[RowRange], rows: int) -> list[RowRange]:
    """Return the ranges as far as they hold the first rows."""
    found = []
    for part in ranges:
        found.append(part.model_copy(update={"rows": min(part.rows, rows)}))
        rows -= found[-1].rows
    return [part for part in found if part.rows]


def _declared(stage: TableStage, plan: pl.LazyFrame) -> pl.LazyFrame:
    """Return a stage's rows in the declared types, as it is between batches' stages."""
    assert stage.lazily is not None
    after = stage.lazily(plan)
    types = empty_frame(stored_schema(stage.columns)).schema
    found = after.collect_schema()
    return after.cast({name: kind for name, kind in types.items() if found[name] != kind})


def _without(found: bytes, rows: Rows) -> bytes:
    """Return the digests of all rows but these."""
    left = np.frombuffer(found, np.dtype((np.void, DIGEST_BYTES)))
    return np.delete(left, rows).tobytes()


class _Files:
    """Local Parquet files with row groups of so many rows, a new file after `most` rows."""

    def __init__(self, path: Path, schema: pa.Schema, group: int, most: int) -> None:
        self._path = path
        self._schema = schema
        self._group = group
        self._most = most
        self._done: list[tuple[Path, int]] = []
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        """Add rows, held until they fill a row group."""
        self._held.append(table)
        rows, size = (sum(sizes) for sizes in zip(*((one.num_rows, one.nbytes) for one in self._held), strict=True))
        if rows >= self._group or size >= STAGED_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._held)
        self._held = []
        group = max(1, min(self._group, STAGED_GROUP_BYTES * table.num_rows // max(1, table.nbytes)))
        if self._writer is None:
            self._done.append((self._path.with_name(f"{self._path.name}-{len(self._done):05d}.parquet"), 0))
            self._writer = pq.ParquetWriter(self._done[-1][0], self._schema, compression="zstd", compression_level=1)
        self._writer.write_table(table, row_group_size=group)
        path, rows = self._done[-1]
        self._done[-1] = path, rows + table.num_rows
        if rows + table.num_rows >= self._most:
            self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> list[tuple[Path, int]]:
        """Write what is held. Returns the files that have rows, with their number."""
        if sum(table.num_rows for table in self._held):
            self._flush()
        self._end()
        return self._done
