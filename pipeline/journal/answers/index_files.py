"""One file of the answer index: sorted keys, each with a partition whose journal has records of it.

    key         uint64, sorted; see `answer_keys`
    place       int32, the position of the partition in the footer's list

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
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal.answer_keys import KEYS
from pipeline.journal.answers.filters import Filter, Keys
from schemas.errors import Damaged

FORMAT = 2  # files of format 1 have no calls: they are dropped, and made again from the journals
GROUP = 4_096  # keys that are read together
_AT_ONCE = 64  # row groups
SCHEMA = pa.schema([pa.field("key", pa.uint64()), pa.field("place", pa.int32())])
Covered = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class IndexFile:
    """A file that was opened: its footer, its filter, and the first key of each row group. `open` opens its bytes."""

    key: str
    rows: int
    covered: Covered
    filter: Filter
    _firsts: Keys
    _lasts: Keys
    _open: Callable[[], Any] = field(repr=False)

    @classmethod
    def opened(cls, key: str, open_bytes: Callable[[], Any]) -> "IndexFile":
        """Read the keys of a file once. Raises Damaged for a file that is no index of this version."""
        try:
            with open_bytes() as source, pq.ParquetFile(source) as parquet:
                covered = _covered_of(parquet.schema_arrow)
                metadata = parquet.metadata
                edges = [_edges(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
                keys = (_keys(parquet, group) for group in range(metadata.num_row_groups))
                filter_ = Filter.of(metadata.num_rows, keys)
        except (pa.ArrowException, OSError, ValueError, KeyError, zlib.error) as exc:
            raise Damaged(f"{key}: no index of answers ({type(exc).__name__})") from exc
        firsts, lasts = (np.array([edge[side] for edge in edges], dtype=np.uint64) for side in (0, 1))
        return cls(key, metadata.num_rows, covered, filter_, firsts, lasts, open_bytes)

    def find(self, keys: pl.Series) -> pl.DataFrame:
        """Return `key`, `partition` of the keys that are in the file. Raises OSError, ArrowException, StoreError."""
        wanted = keys.to_numpy()
        wanted = np.sort(wanted[self.filter.may_have(wanted)])
        if not len(wanted):
            return found_frame([])
        # A group has some of the wanted keys if the first of them from its beginning on is not behind its end.
        at = np.searchsorted(wanted, self._firsts)
        groups = np.flatnonzero((at < len(wanted)) & (wanted[np.minimum(at, len(wanted) - 1)] <= self._lasts))
        names = pl.Series(list(self.covered), dtype=pl.String)
        needed = pl.DataFrame({"key": pl.Series(wanted, dtype=KEYS)})
        parts = []
        with self._open() as source, pq.ParquetFile(source) as parquet:
            for some in _batched(groups.tolist(), _AT_ONCE):
                rows = pl.DataFrame(parquet.read_row_groups(some))
                hit = rows.join(needed, on="key", how="semi")
                parts.append(hit.select("key", partition=names.gather(hit["place"])))
        return found_frame(parts)

    def between(self, low: int, high: int) -> pl.DataFrame:
        """Return `key`, `partition` of the keys from `low` up to, not including, `high`."""
        names = pl.Series(list(self.covered), dtype=pl.String)
        groups = np.flatnonzero((self._firsts < np.uint64(high)) & (self._lasts >= np.uint64(low))).tolist()
        parts = []
        with self._open() as source, pq.ParquetFile(source) as parquet:
            for group in groups:
                rows = pl.DataFrame(parquet.read_row_group(group))
                hit = rows.filter((pl.col("key") >= low) & (pl.col("key") < high))
                parts.append(hit.select("key", partition=names.gather(hit["place"])))
        return found_frame(parts)


def _batched(groups: list[int], size: int) -> Iterator[list[int]]:
    """Yield parts of so many."""
    for start in range(0, len(groups), size):
        yield groups[start : start + size]


def found_frame(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema={"key": KEYS, "partition": pl.String}), *parts])


def write(path: Path, covered: Covered, pieces: Iterable[pl.DataFrame]) -> int:
    """Write a file of `key`, `partition`, in pieces whose keys follow each other. Returns the number of its keys."""
    places = pl.DataFrame({"partition": list(covered)}, schema={"partition": pl.String}).with_row_index("place")
    count = 0
    with pq.ParquetWriter(
        path, SCHEMA.with_metadata(_metadata(covered)), compression="zstd", use_dictionary=False,
        column_encoding={"key": "DELTA_BINARY_PACKED", "place": "DELTA_BINARY_PACKED"},
    ) as writer:  # fmt: skip
        for piece in _grouped(pieces):
            placed = piece.join(places, on="partition", how="inner", maintain_order="left").select("key", "place")
            writer.write_table(placed.to_arrow().cast(SCHEMA).replace_schema_metadata(_metadata(covered)))
            count += placed.height
    return count


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


def _keys(parquet: pq.ParquetFile, group: int) -> Keys:
    found: Keys = parquet.read_row_group(group, columns=["key"]).column(0).to_numpy()
    return found
