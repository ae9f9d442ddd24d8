"""The journal on a store: segments that batches append, and the compacted Parquet that later runs read.

    _tandem/journal/<partition>/segments/<run>/b<batch>/<nonce>.jsonl      immutable, written by whichever attempt lives
    _tandem/journal/<partition>/compact-<digest>.parquet                   the same records, merged after a commit

Deleting is safe at any time after a merge: a journal is a set of facts, so a record that is read twice counts once, and
a reader that finds an object gone lists again.
"""

import asyncio
import datetime as dt
import hashlib
import itertools
import tempfile
import uuid
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing
from schemas.manifest import Usage
from stages.journal import (
    FORMAT,
    TOOL,
    CallRecord,
    Record,
    UnknownFormat,
    decode_segment,
    encode_record,
    record_of,
)

_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("id", pa.string()),
        pa.field("key", pa.string()),  # row fingerprint, or request digest
        pa.field("run", pa.string()),
        pa.field("nonce", pa.string()),
        pa.field("body", pa.binary()),
    ]
)
_CHUNK = 5_000
GRACE = dt.timedelta(minutes=15)
# Of their own: a user's synchronous nodes may hold every thread of the default pool while they wait for a flush.
_WRITERS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="tandem-journal")
_LISTINGS = 3  # how often a reader lists again when what it listed is gone
Put = Callable[[bytes], Awaitable[None]]


def segment_writer(store: Store, partition: str, run: str, batch: int) -> Put:
    """Where one batch attempt puts its segments: new names each time, so that attempts never meet."""

    async def put(data: bytes) -> None:
        key = ids.journal_segment(partition, run, batch, uuid.uuid4().hex)
        await asyncio.get_running_loop().run_in_executor(_WRITERS, store.put_absent, key, data)

    return put


@dataclass
class Reading:
    """What came of reading objects: `read` whole, `damage` named, never guessed, `gone` since they were listed."""

    read: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)


def listed(store: Store, partition: str, run: str = "") -> tuple[list[str], list[str]]:
    """The segments (of one run) and the compacted objects. In this order: segments that are merged between the two
    listings are then found gone, rather than in neither."""
    prefix = ids.journal_segments(partition) + (f"{run}/" if run else "")
    return [info.key for info in store.list(prefix)], compacted(store, partition)


def read_segments(store: Store, keys: Iterable[str], reading: Reading) -> Iterator[list[Record]]:
    """The records of segments, one segment at a time."""
    for key in keys:
        try:
            segment = decode_segment(store.get(key))
        except ObjectMissing:
            reading.gone.add(key)
            continue
        except UnknownFormat as exc:
            reading.damage.append(f"{key}: {exc}; its records are not used")
            continue
        if segment.torn:
            reading.damage.append(f"{key}: {segment.torn} torn record(s) dropped")
        reading.read.add(key)
        yield segment.records


def read_compacted(
    store: Store, keys: Iterable[str], columns: Sequence[str], reading: Reading
) -> Iterator[pl.DataFrame]:
    """The records of compacted objects, a chunk at a time; some may come twice. Raises StoreError where the store is
    away: that is no damage, and to go on without its records would be to pay for them again."""
    for key in keys:
        try:
            try:
                yield from _batches(store.open_input(key), key, columns)
            except (OSError, pa.ArrowException):
                yield from _batches(pa.BufferReader(store.get(key)), key, columns)
        except ObjectMissing:
            reading.gone.add(key)
        except UnknownFormat as exc:
            reading.damage.append(f"{exc}; its records are not used")
        except (OSError, pa.ArrowException) as exc:
            reading.damage.append(f"{key}: cannot be read ({type(exc).__name__}); its records are not used")
        else:
            reading.read.add(key)


def _chunked(segments: Iterable[list[Record]]) -> Iterator[pl.DataFrame]:
    """Frames of about _CHUNK records, so that memory stays flat however many segments there are."""
    held: list[Record] = []
    for records in segments:
        held.extend(records)
        if len(held) >= _CHUNK:
            yield _frame(held)
            held = []
    if held:
        yield _frame(held)


def load_batch(store: Store, partition: str, run: str, batch: int, damage: list[str] | None = None) -> list[Record]:
    """What earlier attempts of a batch left; what of it cannot be read is named in `damage`."""
    keys = [info.key for info in store.list(ids.journal_batch(partition, run, batch))]
    reading = Reading()
    records = list(itertools.chain.from_iterable(read_segments(store, keys, reading)))
    if damage is not None:
        damage.extend(reading.damage)
    return records


# The compacted journal ---------------------------------------------------------------------------------------------


def compacted(store: Store, partition: str) -> list[str]:
    """The compacted objects of a partition: one, or for a while two."""
    prefix = ids.journal_folder(partition)
    return [info.key for info in store.list(f"{prefix}compact-") if info.key.endswith(".parquet")]


def _batches(opened: Any, key: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    with opened as source, pq.ParquetFile(source) as parquet:
        version = (parquet.schema_arrow.metadata or {}).get(b"tandem_journal")
        if version != str(FORMAT).encode():
            raise UnknownFormat(f"{key}: journal format {version!r}, this Tandem reads {FORMAT}")
        for batch in parquet.iter_batches(batch_size=_CHUNK, columns=list(columns)):
            yield pl.DataFrame(pa.Table.from_batches([batch]))


def deal_known(store: Store, partition: str, wanted: pl.DataFrame, folder: Path) -> tuple[dict[int, Path], list[str]]:
    """The partition's records, dealt to the batches whose rows may use them, a local file of segment form for each.

    `wanted` has columns `batch` and `key`: the identities and row fingerprints of each batch's rows. Records are joined
    by either, a chunk at a time, so that memory stays flat. Returns the files and what could not be read.
    """
    by_key = wanted.unique()
    for _ in range(_LISTINGS):
        reading, dealt = Reading(), _Dealer(folder)
        segments, merged = listed(store, partition)
        for chunk in read_compacted(store, merged, ["id", "key", "body"], reading):
            dealt.add(chunk, by_key)
        for chunk in _chunked(read_segments(store, segments, reading)):
            dealt.add(chunk.select("id", "key", "body"), by_key)
        if not reading.gone:  # else they were merged into an object that was not listed yet
            break
    return dealt.files, reading.damage


class _Dealer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[int, Path] = {}

    def add(self, chunk: pl.DataFrame, wanted: pl.DataFrame) -> None:
        chunk = chunk.with_row_index("at")
        by_id = chunk.select("at", pl.col("id").alias("key")).join(wanted, on="key").select("at", "batch")
        by_key = chunk.select("at", "key").join(wanted, on="key").select("at", "batch")
        matched = pl.concat([by_id, by_key]).unique().join(chunk.select("at", "body"), on="at").sort("at")
        for (batch,), part in matched.group_by("batch", maintain_order=True):
            assert isinstance(batch, int)
            path = self.files.get(batch)
            if path is None:
                path = self.files[batch] = self.folder / f"known-{batch:05d}.jsonl"
                path.write_bytes(orjson.dumps({"tandem_journal": FORMAT}) + b"\n")
            with path.open("ab") as out:
                for body in part["body"].to_list():
                    out.write(b"%08x " % zlib.crc32(body) + body + b"\n")


def _frame(records: Iterable[Record]) -> pl.DataFrame:
    rows = [
        (
            "call" if isinstance(record, CallRecord) else "row",
            record.id,
            record.request if isinstance(record, CallRecord) else record.row,
            record.run,
            record.nonce if isinstance(record, CallRecord) else "",
            encode_record(record),
        )
        for record in records
    ]
    schema = {"kind": pl.String, "id": pl.String, "key": pl.String, "run": pl.String, "nonce": pl.String,
              "body": pl.Binary}  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def compact(store: Store, partition: str, now: dt.datetime) -> str | None:
    """Merge segments and earlier compacted objects into one new object, and delete those merged before, after a grace.
    What cannot be read, as another version wrote it, stays. Returns the key, None where there was nothing to merge."""
    segments = list(store.list(ids.journal_segments(partition)))
    olds = list(store.list(f"{ids.journal_folder(partition)}compact-"))
    if not segments and len(olds) <= 1:
        return None
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        path = Path(folder) / "compact.parquet"
        metadata = {b"tandem_journal": str(FORMAT).encode()}
        seen: set[bytes] = set()
        reading = Reading()
        with pq.ParquetWriter(path, _SCHEMA.with_metadata(metadata), compression="zstd") as writer:
            for chunk in _all(store, [info.key for info in segments], [info.key for info in olds], reading):
                fresh = chunk.filter([_first(seen, body) for body in chunk["body"].to_list()])
                if fresh.height:
                    writer.write_table(fresh.to_arrow().cast(_SCHEMA).replace_schema_metadata(metadata))
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        key = ids.journal_compact(partition, content)
        store.upload(key, path)
    # What is older than the grace is in the object that was just written; a reader at work may still need the rest.
    merged = {info.key for info in (*segments, *olds) if info.modified < now - GRACE} & reading.read
    store.delete(sorted(merged - {key}))
    return key


def _first(seen: set[bytes], body: bytes) -> bool:
    content = hashlib.blake2b(body, digest_size=16).digest()
    if content in seen:
        return False
    seen.add(content)
    return True


def _all(store: Store, segments: Sequence[str], olds: Sequence[str], reading: Reading) -> Iterator[pl.DataFrame]:
    yield from read_compacted(store, olds, _SCHEMA.names, reading)
    yield from _chunked(read_segments(store, segments, reading))


# Usage -------------------------------------------------------------------------------------------------------------


def usage_of_run(store: Store, partition: str, run: str) -> Usage:
    """What a run paid for in a partition, summed from its call records: all attempts and zombies, each once."""
    total = _Sum()  # what cannot be read was named by `deal_known`
    for _ in range(_LISTINGS):
        reading = Reading()
        segments, merged = listed(store, partition, run)
        for chunk in read_compacted(store, merged, ["kind", "run", "body"], reading):
            mine = chunk.filter((pl.col("kind") == "call") & (pl.col("run") == run))
            for body in mine["body"].to_list():
                total.add(record_of(body))
        for records in read_segments(store, segments, reading):
            for record in records:
                if record.run == run:
                    total.add(record)
        if not reading.gone:
            break
    return total.usage()


class _Sum:
    """A running sum over calls; of each it keeps two digests, not the answer."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._unknown: set[int] = set()
        self._asked: set[int] = set()
        self._numbers: Counter[str] = Counter()
        self._cost = 0.0

    def add(self, record: Record | None) -> None:
        if not isinstance(record, CallRecord) or record.model.startswith(TOOL):
            return
        nonce = int(record.nonce[:16], 16)
        if record.raw is None:
            self._unknown.add(nonce)  # an answer that comes to light after all takes its place
            return
        if nonce in self._seen:
            return
        self._seen.add(nonce)
        asked = hash((*record.key, record.id))
        self._numbers["repaid"] += asked in self._asked
        self._asked.add(asked)
        self._numbers["calls"] += 1
        self._numbers["unpriced_calls"] += record.cost_usd is None
        self._cost += record.cost_usd or 0.0
        for ours, theirs in _TOKENS.items():
            self._numbers[ours] += record.usage.get(theirs, 0)

    def usage(self) -> Usage:
        return Usage(**self._numbers, cost_usd=self._cost, unknown=len(self._unknown - self._seen))


_TOKENS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cached_input_tokens": "cached_input",
    "reasoning_tokens": "reasoning",
}
