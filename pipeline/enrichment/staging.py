"""Staged files and receipts: written under their own digest, read back only where the bytes agree."""

import hashlib
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.review.questions import PENDING
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas import ids
from schemas.errors import StoreError, TandemError
from schemas.staging import OpenedPartition, Receipt, StagedFile


def stage_table(store: Store, folder: str, number: int, kind: str, table: pa.Table) -> StagedFile:
    """A table as a staged file, under its own digest."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1, write_statistics=False)
    data = sink.getvalue().to_pybytes()
    content = hashlib.sha256(data).hexdigest()
    key = ids.staged(folder, number, kind, content, "parquet")
    store.put_absent(key, data)
    return StagedFile(key=key, sha256=content, size=len(data), rows=table.num_rows)


def staged_table(store: Store, file: StagedFile) -> pa.Table:
    """A staged file, read back. Raises StoreError where its bytes are not those that were staged."""
    data = store.get(file.key)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise StoreError(f"{store.uri}/{file.key}: its bytes are not those that were staged.")
    return table_of(data)


def load_receipt(store: Store, folder: str, number: int, content: str) -> Receipt:
    """The receipt that a batch's result names. Raises StoreError where its bytes are not those."""
    data = store.get(ids.staged(folder, number, "receipt", content, "json"))
    if hashlib.sha256(data).hexdigest() != content:
        raise TandemError(f"the receipt of batch {number} is not the one that was reported")
    return Receipt.model_validate_json(data)


def waiting_rows(store: Store, opened: OpenedPartition, receipts: Sequence[str]) -> pl.DataFrame:
    """The questions that hold a partition up."""
    found = [pl.DataFrame(PENDING.empty_table())]
    for number, content in enumerate(receipts):
        staged = load_receipt(store, opened.folder, number, content).pending
        if staged is not None:
            found.append(pl.DataFrame(table_of(store.get(staged.key))))
    return pl.concat(found).filter(pl.col("waits"))
