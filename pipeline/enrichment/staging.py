"""Staged files and receipts: written under their own digest, read back only where the bytes agree."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.review.questions import PENDING
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas import ids
from schemas.arrow_tables import empty_frame
from schemas.digests import file_sha256
from schemas.errors import StoreError, TandemError
from schemas.staging import OpenedPartition, Receipt, StagedFile


@dataclass(frozen=True)
class StagingFolder:
    """The folder in which the batches of one opened partition stage their files."""

    store: Store
    folder: str

    def write_table(self, number: int, kind: str, table: pa.Table) -> StagedFile:
        """Stage a batch's table under its own digest. Raises StoreError."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", compression_level=1, write_statistics=False)
        data = sink.getvalue().to_pybytes()
        content = hashlib.sha256(data).hexdigest()
        key = ids.staged(self.folder, number, kind, content, "parquet")
        self.store.put_absent(key, data)
        return StagedFile(key=key, sha256=content, size=len(data), rows=table.num_rows)

    def upload(self, number: int, kind: str, path: Path, rows: int) -> StagedFile:
        """Stage a local Parquet file with so many rows under its own digest. Raises StoreError."""
        content = file_sha256(path)
        key = ids.staged(self.folder, number, kind, content, "parquet")
        self.store.upload(key, path)
        return StagedFile(key=key, sha256=content, size=path.stat().st_size, rows=rows)

    def write_receipt(self, receipt: Receipt) -> str:
        """Stage a batch's receipt; returns its digest, which names it. Raises StoreError."""
        data = receipt.model_dump_json().encode()
        content = hashlib.sha256(data).hexdigest()
        self.store.put_absent(self._receipt(receipt.batch, content), data)
        return content

    def receipt(self, number: int, content: str) -> Receipt:
        """Return the receipt that a batch's result names by its digest. Raises TandemError where its bytes differ,
        StoreError."""
        data = self.store.get(self._receipt(number, content))
        if hashlib.sha256(data).hexdigest() != content:
            raise TandemError(f"the receipt of batch {number} is not the one that was reported")
        return Receipt.model_validate_json(data)

    def _receipt(self, number: int, content: str) -> str:
        return ids.staged(self.folder, number, "receipt", content, "json")


def staged_tables(store: Store, file: StagedFile) -> Iterator[pa.Table]:
    """Read a staged file back, a row group at a time. Raises StoreError where its bytes are not those that were
    staged."""
    data = store.get(file.key)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise StoreError(f"{store.uri}/{file.key}: its bytes are not those that were staged.")
    with pq.ParquetFile(pa.BufferReader(data)) as parquet:
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group)


def known_bytes(store: Store, key: str) -> bytes:
    """Read a batch's known records, whose key names their digest. Raises StoreError where their bytes are not those."""
    data = store.get(key)
    if not Path(key).stem.endswith(f"-{hashlib.sha256(data).hexdigest()}"):
        raise StoreError(f"{store.uri}/{key}: its bytes are not those that were staged.")
    return data


def waiting_rows(store: Store, opened: OpenedPartition, receipts: Sequence[str]) -> pl.DataFrame:
    """Return the questions that the partition waits for."""
    staging = StagingFolder(store, opened.folder)
    found = [empty_frame(PENDING)]
    for number, content in enumerate(receipts):
        staged = staging.receipt(number, content).pending
        if staged is not None:
            found.append(pl.DataFrame(table_of(store.get(staged.key))))
    return pl.concat(found).filter(pl.col("waits"))
