"""The journal's records of a partition's rows, split by the batches whose rows may use them.

    collect          read the partition's records once, keep on this machine those that any of its rows may use
    answered         find the rows that need no call any more, so that batches are cut by the remaining work
    by_batch         write a local file for each batch (`pipeline.journal.known_file`)

Memory holds hashes of keys, never answers, however large the journal is. Two keys of one hash, which one in 300,000
partitions of ten million rows has, are no error: a batch gets a record that it cannot use, or a row without its calls.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl
import pyarrow as pa

from pipeline.journal import answer_keys, compacted, known_file
from pipeline.journal.known_file import REJECT
from pipeline.journal.record_frames import COMMON, REQUEST, REQUESTS
from pipeline.journal.segments import Reading
from pipeline.stores import Store
from schemas import ids

_HASHED = ("id", "key", "stage")
_COLUMNS = tuple(known_file.COLUMNS.names)
# In an answer, the quotes of such a text would have backslashes.
_KIND = (
    pl.when((pl.col("kind") == "row") & pl.col("body").bin.contains(b'"status":"rejected"'))
    .then(pl.lit(REJECT))
    .otherwise(pl.col("kind"))
    .alias("kind")
)
_LISTINGS = 3  # a reader lists again if a listed object is gone
_NUMBERS = 2**32
_Numbers = npt.NDArray[Any]
_SPILL = pa.schema([pa.field("number", pa.uint32()), *known_file.COLUMNS])


def hashed(keys: Sequence[str] | pl.Series) -> pl.Series:
    """Hash each key to eight bytes, in order: a digest's own first bits, by which it is found over the whole dataset,
    too; other texts are hashed."""
    texts = pl.Series("key", keys, dtype=pl.String)
    numbers = answer_keys.of_digests(texts)
    return numbers if not numbers.null_count() else pl.select(pl.coalesce(numbers, texts.hash())).to_series()


def keys_of_batch(batch: int, keys: Sequence[str]) -> pl.DataFrame:
    """Return the join keys of a batch: identities and row fingerprints."""
    return pl.DataFrame({"batch": pl.Series([batch], dtype=pl.Int64).new_from_index(0, len(keys)), "key": hashed(keys)})


@dataclass
class JournalJoin:
    """The records that some rows may use: their numbered keys here, their bodies in a local file."""

    keys: pl.DataFrame
    spill: Path
    damage: list[str] = field(default_factory=list)

    def answered(self, stage: str, rows: pl.Series, *, ok: bool = False) -> pl.Series:
        """Return True for each of these row fingerprints (hashed) that has an outcome under a stage's fingerprint, not
        voided; with `ok` an answer, no reject."""
        mine = self.keys.filter(pl.col("stage") == hashed([stage]).item())
        voided = mine.filter(pl.col("kind") == "void")["key"]
        outcomes = pl.col("kind").is_in(["row"] if ok else ["row", REJECT])
        known = mine.filter(outcomes & ~pl.col("key").is_in(voided.implode()))["key"]
        return rows.is_in(known.implode())

    def has_rows(self, identities: pl.Series) -> pl.Series:
        """Return True for each of these identities (hashed) of which there is an outcome in any stage."""
        return identities.is_in(self.keys.filter(pl.col("kind").is_in(["row", REJECT]))["id"].implode())

    def by_batch(self, batch_keys: pl.DataFrame, folder: Path, name: str = "known") -> dict[int, Path]:
        """Write a file for each batch, its name begun by `name`. `batch_keys` has columns `batch`, `key` (an identity
        or row fingerprint, hashed) and `calls`: True if single calls (and nodes) may still be of use, not only the
        outcome."""
        numbers, batches = self._matched(batch_keys)
        files: dict[int, Path] = {}
        for records in self._records():
            first, last = records["number"][0], records["number"][-1]
            some = slice(np.searchsorted(numbers, first), np.searchsorted(numbers, last, side="right"))
            matched = pl.DataFrame({"number": numbers[some], "batch": batches[some]})
            found = matched.join(records, on="number", maintain_order="left")
            for (batch,), part in found.group_by("batch", maintain_order=True):
                assert isinstance(batch, int)
                if batch not in files:
                    files[batch] = folder / f"{name}-{batch:05d}.arrow"
                    files[batch].unlink(missing_ok=True)
                known_file.append(files[batch], part)
        return files

    def _matched(self, batch_keys: pl.DataFrame) -> tuple[_Numbers, _Numbers]:
        """Return the numbers of records, in order, and for each a batch that may use it. As one number for both: frames
        of some million pairs would take a gigabyte."""
        single = pl.col("kind").is_in(["call", "node"]).alias("single")
        pair = pl.col("number").cast(pl.UInt64) * _NUMBERS + pl.col("batch").cast(pl.UInt64)
        of_rows = self.keys.filter(~pl.col("kind").is_in(REQUESTS))
        pairs = [np.empty(0, np.uint64)]
        for name in ("id", "key"):
            found = of_rows.select("number", single, pl.col(name).alias("key")).join(batch_keys, on="key")
            useful = found.filter(pl.col("calls") | ~pl.col("single"))
            pairs.append(np.unique(useful.select(pair).to_series().to_numpy()))
        numbers, batches = np.divmod(np.unique(np.concatenate(pairs)), np.uint64(_NUMBERS))
        return numbers.astype(np.uint32), batches.astype(np.int64)

    def to_carry(self, keys: pl.Series) -> Iterator[list[bytes]]:
        """Yield the bodies of records that another journal needs beside the outcomes of its rows: calls and their
        requests, steps and voids. `keys`: identities or row fingerprints, hashed."""
        wanted = keys.unique().implode()
        mine = self.keys.filter(
            ~pl.col("kind").is_in(["row", REJECT, "pending", COMMON])
            & (pl.col("id").is_in(wanted) | pl.col("key").is_in(wanted))
        )
        named = mine.filter(pl.col("kind") == REQUEST)["stage"].unique()
        commons = self.keys.filter((pl.col("kind") == COMMON) & pl.col("key").is_in(named.implode()))
        numbers = pl.concat([mine.select("number", "kind"), commons.select("number", "kind")])
        for records in self._records() if numbers.height else ():
            found = records.select("number", "body").join(numbers, on="number")
            yield [
                _as_carried(body) if kind == "call" else body for kind, body in found.select("kind", "body").iter_rows()
            ]

    def _records(self) -> Iterator[pl.DataFrame]:
        with pa.OSFile(str(self.spill)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                yield pl.DataFrame(pa.Table.from_batches([batch]))


def _as_carried(body: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(body), "carried": True})


Place = tuple[Store, str]  # of a journal: the sink and the partition


def collect(
    places: Sequence[Place], keys: pl.Series, folder: Path, name: str = "journal", *, requests: bool = False
) -> JournalJoin:
    """Collect the records of these identities or row fingerprints, hashed, from the journals of some partitions; with
    `requests`, those too. `name`: of files in the folder. Raises StoreError."""
    sought = _Keys(keys)

    def wanted(chunk: pl.DataFrame) -> pl.Series:
        found = sought.have(hashed(chunk["id"])) | sought.have(hashed(chunk["key"]))
        return found | (chunk["kind"] == COMMON) if requests else found

    for number in range(_LISTINGS):
        readings = [Reading() for _ in places]
        chunks = (
            chunk
            for (store, partition), reading in zip(places, readings, strict=True)
            for chunk in compacted.everything(store, partition, _COLUMNS, reading, wanted, requests=requests)
        )
        if not requests:
            chunks = (chunk.filter(~pl.col("kind").is_in(REQUESTS)) for chunk in chunks)
        found = _spilled(chunks, sought, folder / f"{name}-{number}.arrow")
        if not any(reading.gone for reading in readings):  # else they were merged into an object not listed yet
            break
    found.damage = [damage for reading in readings for damage in reading.damage]
    return found


@dataclass(frozen=True)
class _Keys:
    """Hashed keys that are looked up for each chunk of a journal, however large both are."""

    keys: pl.Series

    def have(self, numbers: pl.Series) -> pl.Series:
        """Return True for each of these numbers that is a key."""
        sought = numbers.to_numpy()
        place = np.searchsorted(self._sorted[:-1], sought)
        return pl.Series((self._sorted[place] == sought) & (place < len(self._sorted) - 1), dtype=pl.Boolean)

    @cached_property
    def _sorted(self) -> np.typing.NDArray[np.uint64]:
        """The keys in order, and one more at the end."""
        return np.append(np.unique(self.keys.to_numpy()), np.uint64(0))


def _spilled(chunks: Iterable[pl.DataFrame], keys: _Keys, path: Path) -> JournalJoin:
    kept = []
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _SPILL) as writer:
        for chunk in chunks:
            hashes = pl.DataFrame([hashed(chunk[column]).alias(column) for column in _HASHED])
            needed = keys.have(hashes["id"]) | keys.have(hashes["key"]) | (chunk["kind"] == COMMON)
            records = chunk.with_row_index("number", offset=count).filter(needed).with_columns(_KIND)
            count += chunk.height
            kept.append(pl.concat([records.select("number", "kind"), hashes.filter(needed)], how="horizontal"))
            for batch in records.to_arrow().select(_SPILL.names).cast(_SPILL).to_batches():
                writer.write_batch(batch)
    empty = pl.DataFrame(schema={"number": pl.UInt32, "kind": pl.String} | dict.fromkeys(_HASHED, pl.UInt64))
    return JournalJoin(pl.concat([empty, *kept]), path)


def split_by_batch(
    store: Store, partition: str, batch_keys: pl.DataFrame, folder: Path
) -> tuple[dict[int, Path], list[str]]:
    """Split the partition's records by the batches of `batch_keys` (of `keys_of_batch`): all that their rows may use.
    Returns the files and the damaged parts of the journal."""
    joined = collect([(store, partition)], batch_keys["key"], folder)
    return joined.by_batch(batch_keys.with_columns(calls=pl.lit(value=True)), folder), joined.damage


def has_journal(store: Store, partition: str) -> bool:
    return next(iter(store.list(ids.journal_folder(partition))), None) is not None
