"""Files beside the data: rejected rows, and the index of identities."""

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas.errors import ObjectMissing

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
INDEX = pa.schema([pa.field("row_id", pa.string()), pa.field("content", pa.string())])

_LONGEST_VALUE, _LONGEST_NAME = 40, 120
_COLUMNS = ("row_id", "key", "stage", "error", "attempts", "message", "raw_answer")


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
