"""Files beside the data: rejected rows, and the index of identities."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stores import Store
from pipeline.stores.parquet import batches_of, table_of
from schemas.errors import ObjectMissing, StoreError
from stages.journal.fingerprints import DIGEST_BYTES

REJECTS = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("key", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int64()),
        pa.field("message", pa.string()),
        pa.field("raw_answer", pa.string()),
        pa.field("row_fingerprint", pa.string()),
        pa.field("stage_fingerprint", pa.string()),
        pa.field("calls", pa.string()),  # JSON: [request digest, ordinal] of each, in order
        pa.field("answered", pa.bool_()),  # the row had an answer: `stage` rejects what an earlier one made of it
    ]
)
# Digests in binary; in hexadecimal in files of earlier versions. A row that a stage left out has no `content`.
INDEX = pa.schema([pa.field("row_id", pa.binary(DIGEST_BYTES)), pa.field("content", pa.binary(DIGEST_BYTES))])

_READ_ROWS = 65_536
_LONGEST_VALUE, _LONGEST_NAME = 40, 120
_COLUMNS = ("row_id", "key", "stage", "error", "attempts", "message", "raw_answer")


def index_table(identities: bytes, contents: bytes | None) -> pa.Table:
    """Return rows of an index, from digests that lie one behind the other."""
    rows = len(identities) // DIGEST_BYTES
    row_id = _digests(identities, rows)
    content = pa.nulls(rows, pa.binary(DIGEST_BYTES)) if contents is None else _digests(contents, rows)
    return pa.Table.from_arrays([row_id, content], schema=INDEX)


def _digests(data: bytes, rows: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), rows, [None, pa.py_buffer(data)])


def in_hexadecimal(digests: pa.Array | pa.ChunkedArray) -> pl.Series:
    """Return the digests of an index, or of other files, as text."""
    column = pl.Series(digests)
    return column.bin.encode("hex") if column.dtype == pl.Binary else column.cast(pl.String)


def in_binary(table: pa.Table) -> pa.Table:
    """Return the rows of an index of any version."""
    columns = [
        pl.Series(table[name]).str.decode("hex").to_arrow() if _is_text(table[name].type) else table[name]
        for name in INDEX.names
    ]
    return pa.table(columns, names=INDEX.names).cast(INDEX)


def _is_text(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_string(data_type) or pa.types.is_large_string(data_type))


def index_numbers(store: Store, key: str) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield the first eight bytes of the identities of an index, some thousand at a time; none where it is gone or
    damaged: it is derived."""
    try:
        with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
            for batch in batches_of(parquet, _READ_ROWS, ["row_id"]):
                yield numbers_of(_bytes_of(batch.column("row_id")))
    except (StoreError, OSError, pa.ArrowException):
        return


def _bytes_of(digests: pa.Array) -> bytes:
    """Return digests of any version, one behind the other."""
    if _is_text(digests.type):
        return bytes.fromhex("".join(digests.to_pylist()))
    start = digests.offset * DIGEST_BYTES
    return bytes(memoryview(digests.buffers()[1])[start : start + len(digests) * DIGEST_BYTES])


def numbers_of(digests: bytes) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each digest."""
    return np.frombuffer(digests, ">u8")[:: DIGEST_BYTES // 8].astype(np.uint64)


def read_rejects(store: Store, key: str) -> pl.DataFrame:
    """The rejects of one object; none where it is gone."""
    try:
        with store.open_input(key) as source:
            return pl.DataFrame(table_of(source))
    except ObjectMissing:
        return pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.String))


def row_name(key: Mapping[str, object]) -> str:
    """Return a row's key as one line of text: the value of one column, `name=value` of several."""
    texts = [str(value)[:_LONGEST_VALUE] for value in key.values()]
    named = texts if len(texts) == 1 else [f"{name}={text}" for name, text in zip(key, texts, strict=True)]
    return ", ".join(named)[:_LONGEST_NAME]
