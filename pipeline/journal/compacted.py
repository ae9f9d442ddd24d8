"""The journal on a store: segments that batches append, and the compacted Parquet that later runs read.

    _tandem/journal/<partition>/segments/<run>/b<batch>/<nonce>.jsonl      immutable, written by each attempt
    _tandem/journal/<partition>/compact-<digest>.parquet                   the same records, merged after a commit

Deleting is safe at any time after a merge: a journal is a set of facts, so a record that is read twice counts once, and
a reader that finds an object gone lists again. A compacted object names the segments that it holds: those that stay for
a grace are not read again. Readers are `pipeline.journal.join`, `pipeline.journal.compaction`, `pipeline.journal.usage`
and `pipeline.runs.statistics.totals`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal.record_frames import CHUNK, COMPACTED, REQUESTS, chunked
from pipeline.journal.segments import Reading, load_batch, read_bodies
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of, groups_of
from schemas import ids
from schemas.errors import ObjectMissing
from stages.journal.records import Record, record_of
from stages.journal.segments import FORMAT, UnknownFormat

_SEARCHED = ["kind", "id", "key"]
Wanted = Callable[[pl.DataFrame], pl.Series]  # of records by these columns: True for each that is needed
_JOINED = 4 * CHUNK  # that are joined with rows at once


def listed(store: Store, partition: str, run: str = "") -> tuple[list[str], list[str]]:
    """List the segments (of one run), then the compacted objects: segments that are merged between the two listings are
    then found gone, instead of missing from both."""
    prefix = ids.journal_segments(partition) + (f"{run}/" if run else "")
    answers = ids.journal_answers(partition)  # pipeline.review.questions reads those
    segments = [info.key for info in store.list(prefix) if not info.key.startswith(answers)]
    return segments, compacted(store, partition)


# Compacted objects -------------------------------------------------------------------------------------------------


def compacted(store: Store, partition: str) -> list[str]:
    """The compacted objects of a partition: one, or for a while two."""
    prefix = ids.journal_folder(partition)
    return [info.key for info in store.list(f"{prefix}compact-") if info.key.endswith(".parquet")]


@dataclass(frozen=True)
class Footer:
    """Metadata of a compacted object: the objects that were merged into it, the runs that paid for its calls, and the
    stages whose answers the generation used then."""

    merged: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()

    def metadata(self) -> dict[bytes, bytes]:
        content = {"merged": self.merged, "runs": self.runs, "stages": self.stages}
        return {b"tandem_journal": str(FORMAT).encode(), b"tandem": orjson.dumps(content)}

    @classmethod
    def of(cls, key: str, schema: pa.Schema) -> "Footer":
        """Parse the metadata. Raises UnknownFormat for another version's."""
        metadata = schema.metadata or {}
        version = metadata.get(b"tandem_journal")
        if version != str(FORMAT).encode():
            raise UnknownFormat(f"{key}: journal format {version!r}, this Tandem reads {FORMAT}")
        content = orjson.loads(metadata.get(b"tandem", b"{}"))
        return cls(**{name: tuple(content.get(name, ())) for name in ("merged", "runs", "stages")})


def read_compacted(
    store: Store,
    keys: Iterable[str],
    columns: Sequence[str],
    reading: Reading,
    *,
    accept: Callable[[Footer], bool] = lambda footer: True,
    wanted: Wanted | None = None,
    requests: bool = True,
) -> Iterator[pl.DataFrame]:
    """Yield the records of compacted objects with an accepted footer, a chunk at a time; some may come twice. With
    `wanted`, those that it accepts; other columns are read of their row groups alone. Without `requests`, their row
    groups are left out. Raises StoreError if the store is unreachable: that is no damage, and without these records
    calls would be paid again."""
    for key in keys:
        footers: list[Footer] = []
        try:
            try:
                yield from _chunks(store.open_input(key), key, columns, footers, accept, wanted, requests)
            except (OSError, pa.ArrowException):
                yield from _chunks(pa.BufferReader(store.get(key)), key, columns, footers, accept, wanted, requests)
        except ObjectMissing:
            reading.gone.add(key)
        except UnknownFormat as exc:
            reading.damage.append(f"{exc}; its records are not used")
        except (OSError, pa.ArrowException) as exc:
            reading.damage.append(f"{key}: cannot be read ({type(exc).__name__}); its records are not used")
        else:
            reading.read.add(key)
            reading.merged.update(footers[-1].merged)


def _chunks(
    opened: Any,
    key: str,
    columns: Sequence[str],
    footers: list[Footer],
    accept: Callable[[Footer], bool],
    wanted: Wanted | None,
    requests: bool,
) -> Iterator[pl.DataFrame]:
    with opened as source, pq.ParquetFile(source) as parquet:
        footers.append(Footer.of(key, parquet.schema_arrow))
        if not accept(footers[-1]):
            return
        of_requests = [group for group in range(parquet.num_row_groups) if _is_of_requests(parquet, group)]
        others = [group for group in range(parquet.num_row_groups) if group not in of_requests]
        if wanted is not None:
            some = groups_of(parquet.metadata, _JOINED, others)
            yield from _wanted_rows(parquet, some, columns, wanted)
            yield from _wanted_rows(parquet, [[group] for group in of_requests if requests], columns, wanted)
            return
        for batch in batches_of(parquet, CHUNK, columns, others):
            yield pl.DataFrame(pa.Table.from_batches([batch]))
        for group in of_requests if requests else ():  # one at a time: their rows may be large
            yield pl.DataFrame(parquet.read_row_group(group, list(columns)))


def _is_of_requests(parquet: pq.ParquetFile, group: int) -> bool:
    """True if a row group has but requests, or but what they have in common."""
    kinds = parquet.metadata.row_group(group).column(COMPACTED.get_field_index("kind")).statistics
    return kinds is not None and kinds.has_min_max and kinds.min == kinds.max and kinds.min in REQUESTS


def _wanted_rows(
    parquet: pq.ParquetFile, groups: Iterable[list[int]], columns: Sequence[str], wanted: Wanted
) -> Iterator[pl.DataFrame]:
    rest = [name for name in columns if name not in _SEARCHED]
    for some in groups:
        found = pl.DataFrame(parquet.read_row_groups(some, _SEARCHED))
        needed = wanted(found)
        with_any, start = [], 0
        for group in some:
            rows = parquet.metadata.row_group(group).num_rows
            if needed[start : start + rows].any():
                with_any.append((group, start, rows))
            start += rows
        if with_any:
            others = pl.DataFrame(parquet.read_row_groups([group for group, _, _ in with_any], rest))
            if len(with_any) < len(some):
                found = pl.concat(found[first : first + rows] for _, first, rows in with_any)
                needed = pl.concat(needed[first : first + rows] for _, first, rows in with_any)
            yield pl.concat([found, others], how="horizontal").select(columns).filter(needed)
        pa.default_memory_pool().release_unused()


def everything(
    store: Store,
    partition: str,
    columns: Sequence[str],
    reading: Reading,
    wanted: Wanted | None = None,
    *,
    requests: bool = False,
) -> Iterator[pl.DataFrame]:
    """Yield all records of a partition, a chunk at a time; some may come twice. With `wanted`, records may be left
    out that it does not accept, without `requests` those of requests (`read_compacted`)."""
    segments, merged = listed(store, partition)
    yield from read_compacted(store, merged, columns, reading, wanted=wanted, requests=requests)
    for chunk in chunked(read_bodies(store, segments, reading)):
        yield chunk.select(columns)


def of_run(
    store: Store, partition: str, run: str, columns: Sequence[str], *, requests: bool = True
) -> Iterator[pl.DataFrame]:
    """Yield a run's records in a partition, a chunk at a time; some may come twice while they are merged. Without
    `requests`, those of requests may be left out. Raises StoreError."""
    reading = Reading()
    segments, merged = listed(store, partition, run)
    read = list(dict.fromkeys([*columns, "run"]))
    chunks = read_compacted(store, merged, read, reading, accept=lambda footer: run in footer.runs, requests=requests)
    for chunk in itertools.chain(chunks, chunked(read_bodies(store, segments, reading))):
        yield chunk.filter(pl.col("run") == run).select(columns)


def earlier_records(
    store: Store, partition: str, run: str, batch: int, base: int, damage: list[str] | None = None
) -> list[Record]:
    """Return the records of earlier attempts at a batch of a partition that was opened on generation `base`; unreadable
    ones are named in `damage`. Raises StoreError."""
    found = load_batch(store, partition, run, batch, damage)
    published = store.list(ids.commits_of(partition), start_after=ids.commit(partition, base))
    if next(iter(published), None) is not None:  # this attempt slept meanwhile: segments that it needs may be merged
        bodies = (body for chunk in of_run(store, partition, run, ["body"]) for body in chunk["body"])
        found += [record for body in bodies if (record := record_of(body)) is not None]
    return found


# Usage -------------------------------------------------------------------------------------------------------------
