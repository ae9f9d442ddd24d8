"""What the journal knows of a partition's rows, dealt to the batches whose rows may use it.

    gather   read the partition's records once, keep on this machine those that any of its rows may use
    answered which rows need no call any more, so that batches can be dealt by the work that is left
    deal     a local file of segment form for each batch

Memory holds hashes of keys, never answers, however large the journal is. Two keys of one hash, which of
partitions of ten million rows one in 300,000 has, are no error: a record is dealt that a batch has no use for, or a row
without its calls.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa

from pipeline.journal import compacted
from pipeline.journal.segments import Reading
from pipeline.stores import Store
from schemas import ids
from stages.journal.segments import FORMAT

_HASHED = ("id", "key", "stage")
_COLUMNS = ("kind", *_HASHED, "body")
_LISTINGS = 3  # how often a reader lists again when what it listed is gone
_SPILL = pa.schema([pa.field("at", pa.uint32()), pa.field("body", pa.binary())])


def hashed(keys: Sequence[str]) -> pl.Series:
    """Eight bytes of each, in the order given."""
    return pl.Series("key", keys, dtype=pl.String).hash()


def keys_of_batch(batch: int, keys: Sequence[str]) -> pl.DataFrame:
    """What a batch wants: records of these identities or row fingerprints."""
    return pl.DataFrame({"batch": pl.Series([batch], dtype=pl.Int64).new_from_index(0, len(keys)), "key": hashed(keys)})


@dataclass
class JournalJoin:
    """The records that some rows may use: their keys here (`at` numbers them), their bodies in a local file."""

    keys: pl.DataFrame
    spill: Path
    damage: list[str] = field(default_factory=list)

    def answered(self, stage: str, rows: pl.Series) -> pl.Series:
        """Whether each of these row fingerprints (hashed) has an outcome under a stage's fingerprint that nobody
        voided."""
        mine = self.keys.filter(pl.col("stage") == hashed([stage]).item())
        voided = mine.filter(pl.col("kind") == "void")["key"]
        known = mine.filter((pl.col("kind") == "row") & ~pl.col("key").is_in(voided.implode()))["key"]
        return rows.is_in(known.implode())

    def deal(self, wanted: pl.DataFrame, folder: Path) -> dict[int, Path]:
        """A file for each batch. `wanted` has columns `batch`, `key` (an identity or row fingerprint, hashed), and
        `calls`: whether single calls (and nodes) may still be of use, or only the outcome."""
        single = pl.col("kind").is_in(["call", "node"]).alias("single")
        pairs = pl.concat(self.keys.select("at", single, pl.col(name).alias("key")) for name in ("id", "key"))
        useful = pairs.join(wanted, on="key").filter(pl.col("calls") | ~pl.col("single"))
        matched = useful.select("at", "batch").unique()
        files: dict[int, Path] = {}
        for bodies in self._bodies():
            found = matched.join(bodies, on="at").sort("at")
            for (batch,), part in found.group_by("batch", maintain_order=True):
                assert isinstance(batch, int)
                if batch not in files:
                    files[batch] = folder / f"known-{batch:05d}.jsonl"
                    files[batch].write_bytes(orjson.dumps({"tandem_journal": FORMAT}) + b"\n")
                lines = b"".join(b"%08x %b\n" % (zlib.crc32(body), body) for body in part["body"].to_list())
                with files[batch].open("ab") as out:
                    out.write(lines)
        return files

    def _bodies(self) -> Iterator[pl.DataFrame]:
        with pa.OSFile(str(self.spill)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                yield pl.DataFrame(pa.Table.from_batches([batch]))


def collect(store: Store, partition: str, keys: pl.Series, folder: Path) -> JournalJoin:
    """The partition's records that are of these identities or row fingerprints, hashed. Raises StoreError."""
    wanted = keys.unique().alias("key").to_frame()
    for number in range(_LISTINGS):
        reading = Reading()
        chunks = compacted.everything(store, partition, _COLUMNS, reading)
        found = _spilled(chunks, wanted, folder / f"journal-{number}.arrow")
        if not reading.gone:  # else they were merged into an object that was not listed yet
            break
    found.damage = reading.damage
    return found


def _spilled(chunks: Iterable[pl.DataFrame], wanted: pl.DataFrame, path: Path) -> JournalJoin:
    kept = []
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _SPILL) as writer:
        for chunk in chunks:
            numbered = chunk.with_row_index("at", offset=count).with_columns(pl.col(_HASHED).hash())
            count += chunk.height
            by_id = numbered.join(wanted, left_on="id", right_on="key", how="semi")["at"]
            by_key = numbered.join(wanted, on="key", how="semi")["at"]
            relevant = numbered.filter(pl.col("at").is_in(pl.concat([by_id, by_key]).unique().implode()))
            kept.append(relevant.drop("body"))
            for batch in relevant.select("at", "body").to_arrow().cast(_SPILL).to_batches():
                writer.write_batch(batch)
    empty = pl.DataFrame(schema={"at": pl.UInt32, "kind": pl.String} | dict.fromkeys(_HASHED, pl.UInt64))
    return JournalJoin(pl.concat([empty, *kept]), path)


def split_by_batch(
    store: Store, partition: str, wanted: pl.DataFrame, folder: Path
) -> tuple[dict[int, Path], list[str]]:
    """The partition's records, dealt to the batches of `wanted` (as `wanted_by` makes it): all that its rows may use.
    Returns the files and what could not be read."""
    gathered = collect(store, partition, wanted["key"], folder)
    return gathered.deal(wanted.with_columns(calls=pl.lit(value=True)), folder), gathered.damage


def has_journal(store: Store, partition: str) -> bool:
    return next(iter(store.list(ids.journal_folder(partition))), None) is not None
