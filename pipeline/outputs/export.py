"""The committed dataset as one file: CSV for spreadsheets, Parquet, or NDJSON. Streaming: a piece at a time.

CSV cells of text that a spreadsheet could take for a formula get a quote in front (`pipeline.formulas`). Parquet and
NDJSON are left alone.
"""

import base64
import contextlib
import datetime as dt
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.formulas import as_text
from pipeline.outputs.reader import batches
from pipeline.outputs.scan import parts
from pipeline.stores import Store
from schemas.errors import UsageError

ENDINGS = (".csv", ".parquet", ".ndjson")
_GROUP_ROWS = 250_000
Write = Callable[[pa.RecordBatch], None]


def export(store: Store, partition: str | None, target: Path) -> int:
    """Write the published rows, or one partition of them, and return their number. The target appears whole or not at
    all. Raises UsageError, GenerationSuperseded, StoreError."""
    writer = {".csv": _csv, ".parquet": _parquet, ".ndjson": _ndjson}.get(target.suffix)
    if writer is None:
        raise UsageError(f"{str(target)!r} ends in none of {', '.join(ENDINGS)}.", hint="Add one of these endings.")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{str(target)!r}: there is no folder {str(folder)!r}.", hint="Create it first.")
    listed, shape = parts(store, partition)
    unfinished = folder / f".{target.name}.{uuid.uuid4().hex[:8]}"
    rows = 0
    try:
        with writer(unfinished, shape.schema) as write:
            for part in listed:
                for batch in batches(part, shape):
                    write(batch)
                    rows += batch.num_rows
        os.replace(unfinished, target)
    except OSError as exc:
        message = f"{str(target)!r} cannot be written: {exc.strerror or exc}."
        raise UsageError(message, hint="Free some space, or choose another file.") from exc
    finally:
        unfinished.unlink(missing_ok=True)
    return rows


@contextlib.contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    held: list[pa.RecordBatch] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            if held:
                writer.write_table(pa.Table.from_batches(held, schema))
                held.clear()

        def write(batch: pa.RecordBatch) -> None:
            held.append(batch)
            if sum(one.num_rows for one in held) >= _GROUP_ROWS:
                flush()

        yield write
        flush()


@contextlib.contextmanager
def _ndjson(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with path.open("wb") as out:

        def write(batch: pa.RecordBatch) -> None:
            out.writelines(_json(row) + b"\n" for row in batch.to_pylist())

        yield write


@contextlib.contextmanager
def _csv(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with path.open("wb") as out:
        heads = pl.DataFrame({"name": schema.names}).select(as_text(pl.col("name")))["name"].to_list()
        pl.DataFrame(schema=dict.fromkeys(_distinct(heads), pl.String)).write_csv(out)

        def write(batch: pa.RecordBatch) -> None:
            columns = [_cells(name, batch.column(name)) for name in batch.schema.names]
            pl.DataFrame(columns).write_csv(out, include_header=False)

        yield write


def _distinct(names: list[str]) -> list[str]:
    """Make headers distinct: one that got a quote may now equal another."""
    return [name if names.index(name) == index else f"{name}_{index}" for index, name in enumerate(names)]


def _cells(name: str, values: pa.Array) -> pl.Series:
    """Format a column for CSV: numbers and booleans as they are, times in ISO 8601, lists and structs as JSON."""
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_date(kind):
        return pl.Series(name, values)
    if pa.types.is_string(kind):
        return pl.Series(name, values).to_frame().select(as_text(pl.col(name))).to_series()
    if pa.types.is_timestamp(kind):
        ending = "Z" if kind.tz else ""
        return pl.Series(name, values).dt.strftime(f"%Y-%m-%dT%H:%M:%S%.f{ending}")
    texts = [None if value is None else _text(value) for value in values.to_pylist()]
    return pl.Series(name, texts, dtype=pl.String).to_frame().select(as_text(pl.col(name))).to_series()


def _text(value: Any) -> str:
    return _json(value).decode() if isinstance(value, list | dict | tuple) else str(_plain(value))


def _json(value: Any) -> bytes:
    options = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_plain, option=options)


def _plain(value: Any) -> Any:
    """Convert values that JSON does not have: bytes to base64, durations to seconds, others to text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    return str(value)
