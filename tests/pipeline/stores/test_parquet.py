"""Reading some rows at a time: all rows in order, whatever the row groups, and no more at once than was asked for."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stores.parquet import batches_of, table_of


def written(groups: list[int]) -> bytes:
    sink = io.BytesIO()
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(sink, schema) as writer:
        start = 0
        for size in groups:
            numbers = range(start, start + size)
            writer.write_table(pa.table({"n": numbers, "text": [str(n) for n in numbers]}, schema=schema))
            start += size
    return sink.getvalue()


@given(groups=st.lists(st.integers(0, 12), max_size=12), rows=st.integers(1, 20))
def test_batches_are_all_rows_in_order(groups: list[int], rows: int) -> None:
    data = written(groups)
    with pq.ParquetFile(pa.BufferReader(data)) as parquet:
        batches = list(batches_of(parquet, rows, ["n"]))
    assert [n for batch in batches for n in batch.column("n").to_pylist()] == list(range(sum(groups)))
    assert all(batch.num_rows <= rows for batch in batches)
    assert table_of(data)["n"].to_pylist() == list(range(sum(groups)))


def test_small_row_groups_are_read_together() -> None:
    with pq.ParquetFile(pa.BufferReader(written([10] * 10))) as parquet:
        assert [batch.num_rows for batch in batches_of(parquet, 50)] == [50, 50]
