"""Identities that rows of two partitions have, found in bounded memory.

Identities are 128 bits. They are spilled to this machine's disk, 20 bytes each, in buckets by their first byte, and the
buckets are compared one by one: ten million take 200 MB of disk, and memory for a few hundred thousand at a time.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sinks.generations import locate
from pipeline.sinks.row_files import in_hexadecimal
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of
from schemas.errors import StoreError
from schemas.manifest import Manifest

_HALVES = np.dtype([("high", ">u8"), ("low", ">u8")])  # of the digest's bytes
_RECORD = np.dtype([("high", "u8"), ("low", "u8"), ("partition", "u4")])
_HELD = 500_000
_READ_ROWS = 65_536


class KeyBuckets:
    """The identities of rows, each with its partition; several rows of one partition may have the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self._held: list[np.ndarray] = []
        self._rows = 0

    def add(self, partition: str, identities: Iterable[str]) -> None:
        """Add identities, 32 hex characters each."""
        digits = bytes.fromhex("".join(identities))
        records = np.empty(len(digits) // 16, _RECORD)
        halves = np.frombuffer(digits, _HALVES)
        records["high"], records["low"] = halves["high"], halves["low"]
        records["partition"] = self._numbers.setdefault(partition, len(self._numbers))
        self._held.append(records)
        self._rows += len(records)
        if self._rows >= _HELD:
            self._spill()

    def _spill(self) -> None:
        records = np.concatenate(self._held) if self._held else np.empty(0, _RECORD)
        self._held, self._rows = [], 0
        bucket = records["high"] >> np.uint64(56)
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange(257))
        for number in range(256):
            part = records[order[edges[number] : edges[number + 1]]]
            if len(part):
                with (self._folder / f"{number:02x}.keys").open("ab") as out:
                    part.tofile(out)

    def shared(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each identity that rows of several partitions have, with these partitions in order."""
        self._spill()
        names = list(self._numbers)
        for path in sorted(self._folder.glob("*.keys")):
            records = np.fromfile(path, _RECORD)
            frame = pl.DataFrame({name: np.ascontiguousarray(records[name]) for name in ("high", "low", "partition")})
            several = frame.unique().group_by("high", "low").agg("partition").filter(pl.col("partition").list.len() > 1)
            for high, low, partitions in several.iter_rows():
                yield f"{high:016x}{low:016x}", sorted(names[number] for number in partitions)


def published_identities(store: Store, manifest: Manifest) -> Iterator[list[str]]:
    """Yield the identities of a generation's source rows, some at a time; none where its row index is gone."""
    path = locate(store, manifest.index.key) if manifest.index is not None else None
    if path is None:
        return
    try:
        with store.open_input(path) as source, pq.ParquetFile(source) as parquet:
            for batch in batches_of(parquet, _READ_ROWS, ["row_id"]):
                yield in_hexadecimal(batch.column("row_id")).to_list()
    except (OSError, pa.ArrowException) as exc:
        raise StoreError(f"{store.uri}/{path} cannot be read ({type(exc).__name__}).") from exc
