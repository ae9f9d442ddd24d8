"""The records that the rows of a batch may use, in one object: as columns, of which a reader takes what it needs.

    a header line, then Arrow streams, one behind the other

Earlier versions wrote segments instead, which are still read. The header makes them refuse this form, instead of
finding it empty and paying again.
"""

from collections.abc import Iterator
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa

from schemas.arrow_tables import empty_table
from stages.journal.records import Record, record_of
from stages.journal.segments import decode_segment

REJECT = "reject"  # the kind of a rejected row; in a journal both are `row`
COLUMNS = pa.schema(
    [
        pa.field("kind", pa.string()),  # as in a compacted journal, but for rejects
        pa.field("id", pa.string()),
        pa.field("key", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("run", pa.string()),
        pa.field("body", pa.binary()),
    ]
)
_HEADER = orjson.dumps({"tandem_journal": 2}) + b"\n"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def append(path: Path, records: pl.DataFrame) -> None:
    """Add records to a local file, which comes into being with the first."""
    table = records.select(COLUMNS.names).to_arrow().cast(COLUMNS)
    with path.open("ab") as out:
        if not out.tell():
            out.write(_HEADER)
        with pa.ipc.new_stream(out, COLUMNS, options=_OPTIONS) as stream:
            stream.write_table(table)


def columns_of(data: bytes) -> pl.DataFrame | None:
    """Return the records as columns; None for a file of an earlier version. Raises ArrowException."""
    if not data.startswith(_HEADER):
        return None
    tables = list(_tables(pa.py_buffer(data).slice(len(_HEADER))))
    return pl.DataFrame(pa.concat_tables([empty_table(COLUMNS), *tables]))


def records_of(data: bytes) -> list[Record]:
    """Return the records of a file of any version. Raises ArrowException, UnknownFormat."""
    found = columns_of(data)
    if found is None:
        return decode_segment(data).records
    return [record for record in map(record_of, found["body"].to_list()) if record is not None]


def _tables(data: pa.Buffer) -> Iterator[pa.Table]:
    source = pa.BufferReader(data)
    while source.tell() < data.size:
        with pa.ipc.open_stream(source) as stream:
            yield stream.read_all()
