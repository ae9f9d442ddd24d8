"""Compaction of a partition's journal after a commit: one object in place of many, without unused records.

`journal.keep` counts from the last time that a current generation used a record. The column `used` holds it: null while
one does, else the time of the compaction that first found the record unused. New records start with their own time.
"""

import datetime as dt
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal import answer_keys
from pipeline.journal.compacted import Footer, read_compacted
from pipeline.journal.record_frames import CHUNK, COMMON, COMPACTED, HELD_BYTES, REQUEST, REQUESTS, chunked
from pipeline.journal.segments import Reading, read_bodies
from pipeline.stores import Store
from pipeline.stores.base import ObjectInfo
from pipeline.stores.parquet import batches_of
from schemas import ids

GRACE = dt.timedelta(minutes=15)
# Of a journal that is not compacted: 1,000 small partitions are 1,000 objects less.
_FEW, _SMALL = 2, 64_000
_ANSWERS = "answers"
_PARTS = (_ANSWERS, *REQUESTS)  # of an object, in this order: what batches read, then what people look at
_NO_KEYS = pl.Series("key", [], dtype=answer_keys.KEYS)


@dataclass(frozen=True)
class InUse:
    """Records that the current generation uses, by identities of its rows and fingerprints of its stages; `keep` is the
    time for which unused records stay."""

    ids: pl.Series
    stages: frozenset[str]
    keep: dt.timedelta


OnNew = Callable[[pl.Series], None]


def _unheard(keys: pl.Series) -> None:
    pass


def compact(
    store: Store, partition: str, now: dt.datetime, in_use: InUse | None = None, on_new: OnNew = _unheard
) -> str | None:
    """Merge segments and earlier compacted objects into one new object, and delete those merged before, after a grace.
    Objects of another version, which cannot be read, stay. Without `in_use` nothing is dropped. `on_new` gets the keys
    of records that were in no compacted object, before they are. Returns the key, None if there was nothing to
    merge."""
    segments = _segments(store, partition)
    olds = sorted(store.list(f"{ids.journal_folder(partition)}compact-"), key=lambda info: info.modified, reverse=True)
    if not segments and len(olds) <= 1:
        on_new(_NO_KEYS)
        return None
    reading = Reading()
    if _is_whole(store, [*segments, *olds[1:]], olds[:1], in_use, reading):
        on_new(_NO_KEYS)
        _delete(store, [info for info in (*segments, *olds[1:]) if info.key in reading.merged], now)
        return None
    reading = Reading()
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        merged = _JournalMerge(Path(folder), now.timestamp(), in_use)
        merged.take(read_compacted(store, [info.key for info in olds], COMPACTED.names, reading))
        new = merged.take(chunked(read_bodies(store, [info.key for info in segments], reading)))
        on_new(pl.concat([_NO_KEYS, *new]).unique())
        held = reading.read | (reading.merged & {info.key for info in segments})
        path = merged.write(tuple(sorted(held)))
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        key = ids.journal_compact(partition, content)
        store.upload(key, path)
    _delete(store, [info for info in (*segments, *olds) if info.key in held and info.key != key], now)
    return key


def compact_if_large(
    store: Store, partition: str, now: dt.datetime, in_use: Callable[[], InUse], on_new: OnNew, on_left: OnNew
) -> None:
    """Compact a journal, unless it is of so few and small segments that it is read as fast as it is. `on_new`: as in
    `compact`; `on_left` gets the keys of one that is left as it is."""
    segments = _segments(store, partition)
    is_small = len(segments) <= _FEW and sum(info.size for info in segments) <= _SMALL
    if not is_small or next(iter(store.list(f"{ids.journal_folder(partition)}compact-")), None) is not None:
        compact(store, partition, now, in_use(), on_new)
        return
    read = read_bodies(store, [info.key for info in segments], Reading())
    on_left(answer_keys.of_bodies([body for bodies in read for body in bodies]))


def _segments(store: Store, partition: str) -> list[ObjectInfo]:
    """List a journal's segments but for people's answers, which are never merged nor dropped."""
    answers = ids.journal_answers(partition)
    return [info for info in store.list(ids.journal_segments(partition)) if not info.key.startswith(answers)]


def _delete(store: Store, merged: list[ObjectInfo], now: dt.datetime) -> None:
    """Delete objects that are older than the grace: active readers may still need the rest."""
    store.delete(sorted(info.key for info in merged if info.modified < now - GRACE))


def _is_whole(
    store: Store, others: list[ObjectInfo], newest: list[ObjectInfo], in_use: InUse | None, reading: Reading
) -> bool:
    """True if the newest compacted object holds every other object, and names the stages in use."""
    footers: list[Footer] = []

    def look(footer: Footer) -> bool:
        footers.append(footer)
        return False

    list(read_compacted(store, [info.key for info in newest], ["kind"], reading, accept=look))
    known = bool(footers) and (in_use is None or set(footers[-1].stages) == in_use.stages)
    return known and {info.key for info in others} <= reading.merged


class _JournalMerge:
    """Records in the compacted form, each once: first gathered in a local file, as the calls in use are known only from
    all of the rows in use."""

    def __init__(self, folder: Path, now: float, in_use: InUse | None) -> None:
        self._folder = folder
        self._now = now
        self._in_use = in_use
        # As hashes, which take a third of the memory: at worst, an equal hash keeps another record.
        self._ids = set(map(hash, in_use.ids)) if in_use is not None else set()
        self._calls: set[int] = set()
        self._commons: set[int] = set()
        self._seen: set[bytes] = set()
        self._runs: set[str] = set()
        self._gathered = {
            part: pq.ParquetWriter(folder / f"{part}.parquet", COMPACTED, compression="lz4") for part in _PARTS
        }

    def take(self, chunks: Iterator[pl.DataFrame]) -> list[pl.Series]:
        """Gather records. Returns the keys of those that were not gathered before."""
        keys = []
        for chunk in chunks:
            fresh = chunk.filter(
                [self._is_new(*columns) for columns in chunk.select("kind", "key", "body").iter_rows()]
            )
            if not fresh.height:
                continue
            for body in fresh.filter(self._are_in_use(fresh))["body"].to_list():
                self._calls.update(hash(request) for request, _ in orjson.loads(body)["calls"])
            self._runs.update(fresh.filter(pl.col("kind") == "call")["run"].unique())
            self._gather(fresh)
            keys.append(answer_keys.of_records(fresh))
        return keys

    def _gather(self, records: pl.DataFrame) -> None:
        """Add records to their part; of requests few at a time, as they may be large."""
        part = pl.col("kind").replace_strict({kind: kind for kind in REQUESTS}, default=_ANSWERS)
        for (name,), of_part in records.group_by(part.alias("part"), maintain_order=True):
            for piece in [of_part] if name == _ANSWERS else _pieces(of_part):
                self._gathered[str(name)].write_table(piece.to_arrow().cast(COMPACTED))

    def _is_new(self, kind: str, key: str, body: bytes) -> bool:
        """True for a record that was not gathered yet; of requests, one of each digest is enough."""
        content = hashlib.blake2b(f"{kind} {key}".encode() if kind in REQUESTS else body, digest_size=16).digest()
        if content in self._seen:
            return False
        self._seen.add(content)
        return True

    def _are_in_use(self, records: pl.DataFrame) -> pl.Series:
        """True for rows of the current generation, and for all voids of its stages: a row of another identity may share
        the answer, which must not come back."""
        stages = self._in_use.stages if self._in_use is not None else ()
        return _each(  # calls have no stage, and that of a request is another digest
            stage in stages and (kind == "void" or hash(id) in self._ids)
            for kind, stage, id in records.select("kind", "stage", "id").iter_rows()
        )

    def _are_calls_in_use(self, records: pl.DataFrame) -> pl.Series:
        """True for calls that rows of the current generation name, with their requests and the common parts of
        those."""
        named = records.select("kind", "key").iter_rows()
        used = {"call": self._calls, REQUEST: self._calls, COMMON: self._commons}
        return _each(kind in used and hash(key) in used[kind] for kind, key in named)

    def _find_commons(self) -> None:
        """Note the common parts of the requests in use."""
        with pq.ParquetFile(self._folder / f"{REQUEST}.parquet") as requests:
            for batch in batches_of(requests, CHUNK, ["kind", "key", "stage"]):
                frame = pl.DataFrame(pa.Table.from_batches([batch]))
                self._commons.update(map(hash, frame.filter(self._are_calls_in_use(frame))["stage"].unique()))

    def write(self, segments: tuple[str, ...]) -> Path:
        """Write the merged object, without records that have been unused for too long."""
        for writer in self._gathered.values():
            writer.close()
        self._find_commons()
        path = self._folder / "compact.parquet"
        stages = tuple(sorted(self._in_use.stages)) if self._in_use is not None else ()
        metadata = Footer(segments, tuple(sorted(self._runs)), stages).metadata()
        with pq.ParquetWriter(path, COMPACTED.with_metadata(metadata), compression="zstd") as writer:
            for part in _PARTS:
                with pq.ParquetFile(self._folder / f"{part}.parquet") as gathered:
                    for records in _frames(gathered, part):
                        kept = self._kept(records)
                        if kept.height:
                            writer.write_table(kept.to_arrow().cast(COMPACTED).replace_schema_metadata(metadata))
        return path

    def _kept(self, records: pl.DataFrame) -> pl.DataFrame:
        if self._in_use is None:
            return records
        current = self._are_in_use(records) | self._are_calls_in_use(records)
        used = pl.when(current).then(None).otherwise(pl.col("used").fill_null(self._now))
        oldest = self._now - self._in_use.keep.total_seconds()
        stamped = records.with_columns(used=used)
        return stamped.filter(pl.col("used").is_null() | (pl.col("used") >= oldest))


def _frames(gathered: pq.ParquetFile, part: str) -> Iterator[pl.DataFrame]:
    """Yield the records of a part, some thousand or some megabytes at a time."""
    if part == _ANSWERS:
        for batch in batches_of(gathered, CHUNK):
            yield pl.DataFrame(pa.Table.from_batches([batch]))
        return
    held: list[pl.DataFrame] = []
    for group in range(gathered.num_row_groups):
        held.append(pl.DataFrame(gathered.read_row_group(group)))
        rows, size = (sum(part) for part in zip(*((one.height, one.estimated_size()) for one in held), strict=True))
        if rows >= CHUNK or size >= HELD_BYTES:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


def _pieces(records: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the records in pieces of some megabytes."""
    piece = records["body"].bin.size().cum_sum() // HELD_BYTES
    for _, part in records.group_by(piece.alias("piece"), maintain_order=True):
        yield part


def _each(values: Iterable[bool]) -> pl.Series:
    return pl.Series(values, dtype=pl.Boolean)
