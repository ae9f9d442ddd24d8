"""One file of the answer index: sorted keys, each with a partition whose journal has records of it.

    key         uint64, sorted; see `answer_keys`
    place       int32, the position of the partition in the footer's list
    filter      binary, a Bloom filter of the row group's keys in its first row; files of earlier versions have none

The footer names the journals that the file has, `partitions`: for each the generations (after, up to) whose new records
are in it. Files never change; they are merged into larger ones.
"""

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal.answer_keys import KEYS
from pipeline.journal.answers.filters import Filters, Keys, filter_of
from schemas.arrow_tables import array_of
from schemas.errors import Damaged

FORMAT = 2  # files of format 1 have no calls: they are dropped, and made again from the journals
GROUP = 4_096  # keys that are read together
_AT_ONCE = 64  # row groups
SCHEMA = pa.schema([pa.field("key", pa.uint64()), pa.field("place", pa.int32()), pa.field("filter", pa.binary())])
_COLUMNS = ["key", "place"]
Covered = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class IndexFile:
    """A file that was opened: its footer, its filters, and the first key of each row group. `open` opens its bytes."""

    key: str
    rows: int
    covered: Covered
    filters: Filters
    _metadata: pq.FileMetaData = field(repr=False)
    _firsts: Keys
    _lasts: Keys
    _open: Callable[[], Any] = field(repr=False)

    @classmethod
    def opened(cls, key: str, open_bytes: Callable[[], Any]) -> "IndexFile":
        """Read the filters of a file once. Raises Damaged for a file that is no index of this version."""
        try:
            with open_bytes() as source, pq.ParquetFile(source) as parquet:
                covered = _covered_of(parquet.schema_arrow)
                metadata = parquet.metadata
                edges = [_edges(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
                firsts, lasts = (np.array([edge[side] for edge in edges], dtype=np.uint64) for side in (0, 1))
                filters = Filters(firsts, list(_filters(parquet)))
        except (pa.ArrowException, OSError, ValueError, KeyError, zlib.error) as exc:
            raise Damaged(f"{key}: no index of answers ({type(exc).__name__})") from exc
        return cls(key, metadata.num_rows, covered, filters, metadata, firsts, lasts, open_bytes)

    def find(self, keys: Keys) -> pl.DataFrame | None:
        """Return `key`, `partition` of those of these keys, sorted and each once, that are in the file; None for none,
        mostly without a look into it. Raises OSError, ArrowException, StoreError."""
        wanted = keys[self.filters.may_have(keys)]
        if not len(wanted):
            return None
        # A group has some of the wanted keys if the first of them from its beginning on is not behind its end.
        at = np.searchsorted(wanted, self._firsts)
        groups = np.flatnonzero((at < len(wanted)) & (wanted[np.minimum(at, len(wanted) - 1)] <= self._lasts))
        names = pl.Series(list(self.covered), dtype=pl.String)
        parts = []
        with self._open() as source, pq.ParquetFile(source, metadata=self._metadata) as parquet:
            for some in _batched(groups.tolist(), _AT_ONCE):
                rows = parquet.read_row_groups(some, columns=_COLUMNS, use_threads=False)
                held: Keys = rows.column("key").to_numpy()
                hit = _places_of(wanted, held)
                places = names.gather(rows.column("place").to_numpy()[hit])
                part = {"key": pl.Series(held[hit], dtype=KEYS), "partition": places}
                parts.append(pl.DataFrame(part))
        return found_frame(parts) if any(part.height for part in parts) else None

    def between(self, low: int, high: int) -> pl.DataFrame:
        """Return `key`, `partition` of the keys from `low` up to, not including, `high`."""
        names = pl.Series(list(self.covered), dtype=pl.String)
        groups = np.flatnonzero((self._firsts < np.uint64(high)) & (self._lasts >= np.uint64(low))).tolist()
        parts = []
        with self._open() as source, pq.ParquetFile(source, metadata=self._metadata) as parquet:
            for group in groups:
                rows = pl.DataFrame(parquet.read_row_group(group, columns=_COLUMNS))
                hit = rows.filter((pl.col("key") >= low) & (pl.col("key") < high))
                parts.append(hit.select("key", partition=names.gather(hit["place"])))
        return found_frame(parts)


def _places_of(wanted: Keys, keys: Keys) -> npt.NDArray[np.int64]:
    """Return the positions of all wanted keys among sorted ones, which may have a key several times."""
    first, end = np.searchsorted(keys, wanted, side="left"), np.searchsorted(keys, wanted, side="right")
    count = end - first
    before = np.cumsum(count) - count
    found: npt.NDArray[np.int64] = np.arange(count.sum()) + np.repeat(first - before, count)
    return found


def _batched(groups: list[int], size: int) -> Iterator[list[int]]:
    """Yield parts of so many."""
    for start in range(0, len(groups), size):
        yield groups[start : start + size]


def found_frame(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema={"key": KEYS, "partition": pl.String}), *parts])


def write(target: Path | pa.NativeFile, covered: Covered, pieces: Iterable[pl.DataFrame]) -> int:
    """Write a file of `key`, `partition`, in pieces whose keys follow each other. Returns the number of its keys."""
    places = pl.DataFrame({"partition": list(covered)}, schema={"partition": pl.String}).with_row_index("place")
    count = 0
    with pq.ParquetWriter(
        target, SCHEMA.with_metadata(_metadata(covered)), compression="zstd", use_dictionary=False,
        column_encoding={"key": "DELTA_BINARY_PACKED", "place": "DELTA_BINARY_PACKED"},
    ) as writer:  # fmt: skip
        for piece in _grouped(pieces):
            placed = piece.join(places, on="partition", how="inner", maintain_order="left").select("key", "place")
            writer.write_table(_with_filter(placed).replace_schema_metadata(_metadata(covered)))
            count += placed.height
    return count


def _with_filter(group: pl.DataFrame) -> pa.Table:
    """Return a row group with the filter of its keys in the first row."""
    filters = [filter_of(group["key"].to_numpy()), *[None] * (group.height - 1)]
    return group.to_arrow().append_column("filter", array_of(filters, pa.binary())).cast(SCHEMA)


def _grouped(pieces: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the sorted rows of pieces, each once, by row groups."""
    held = found_frame([])
    for piece in pieces:
        held = pl.concat([held, piece.unique().sort("key")])
        while held.height >= GROUP:
            yield held.head(GROUP)
            held = held.tail(held.height - GROUP)
    if held.height:
        yield held


def _metadata(covered: Covered) -> dict[bytes, bytes]:
    content = base64.b85encode(zlib.compress(orjson.dumps({"partitions": covered})))  # Polars reads none but texts
    return {b"tandem_answers": str(FORMAT).encode(), b"tandem": content}


def _covered_of(schema: pa.Schema) -> Covered:
    metadata = schema.metadata or {}
    if metadata.get(b"tandem_answers") != str(FORMAT).encode():
        raise ValueError("another format")
    partitions = orjson.loads(zlib.decompress(base64.b85decode(metadata[b"tandem"])))["partitions"]
    return {name: (after, up_to) for name, (after, up_to) in partitions.items()}


def _edges(group: Any) -> tuple[int, int]:
    statistics = group.column(0).statistics
    return int(statistics.min), int(statistics.max)


def _filters(parquet: pq.ParquetFile) -> Iterator[bytes]:
    """Yield the filter of each row group; made of its keys in a file of an earlier version."""
    column = "filter" if "filter" in parquet.schema_arrow.names else "key"
    for some in _batched(list(range(parquet.metadata.num_row_groups)), _AT_ONCE):
        rows = parquet.read_row_groups(some, columns=[column], use_threads=False).column(0)
        if column == "filter":
            yield from rows.drop_null().to_pylist()
            continue
        start = 0
        for group in some:
            count = parquet.metadata.row_group(group).num_rows
            yield filter_of(rows.slice(start, count).to_numpy())
            start += count
