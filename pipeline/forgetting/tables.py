"""Parquet files with rows that may be forgotten: how many of them, and the file without them, in bounded memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.forgetting.identities import Identities
from pipeline.publishing.merge import parquet_writer, row_groups
from pipeline.sinks.row_files import in_hexadecimal
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of
from schemas.arrow_tables import empty_table
from stages.journal.fingerprints import row_ids

_ROWS = 65_536
IdsOf = Callable[[pa.Table], pl.Series]


def ids_by_column(table: pa.Table) -> pl.Series:
    """Return the identities of rejects, questions and row indexes, which name them."""
    return in_hexadecimal(table.column("row_id"))


@dataclass(frozen=True)
class IdsByKey:
    """Compute the identities of data rows from the columns of the key. `folder` has those that only the path holds."""

    key: Sequence[str]
    folder: Mapping[str, pa.Scalar] = field(default_factory=dict)

    def __call__(self, table: pa.Table) -> pl.Series:
        for name in set(self.key) - set(table.column_names):
            table = table.append_column(name, pa.repeat(self.folder[name], table.num_rows))
        return pl.Series(row_ids(pl.DataFrame(table.select(list(self.key))), list(self.key)), dtype=pl.String)

    def fits(self, schema: pa.Schema) -> bool:
        """True if the identities of a file's rows can be computed. A row that only the path names is none of its."""
        return not set(self.key) - set(schema.names) - self.folder.keys()


@dataclass(frozen=True)
class FileSearch:
    """The rows of a file that are to be forgotten: their number and identities. `keyless`: they cannot be told."""

    count: int = 0
    ids: frozenset[str] = frozenset()
    keyless: bool = False


def search_file(store: Store, key: str, ids_of: IdsOf, rows: Identities) -> FileSearch:
    """Search one file. Raises ObjectMissing, ArrowException, OSError."""
    count, found = 0, set[str]()
    with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
        names = parquet.schema_arrow.names
        if isinstance(ids_of, IdsByKey):
            if not ids_of.fits(parquet.schema_arrow):
                return FileSearch(keyless=True)
            columns = [name for name in ids_of.key if name in names]
        else:
            columns = ["row_id"]
        for batch in batches_of(parquet, _ROWS, columns or names[:1]):
            ids = ids_of(pa.Table.from_batches([batch]))
            hits = ids.filter(rows.mask(ids))
            count += len(hits)
            found.update(hits)
    return FileSearch(count, frozenset(found))


def write_without(store: Store, key: str, ids_of: IdsOf, rows: Identities, path: Path) -> int:
    """Write the rows of a file that stay to a local one, with its schema and metadata. Returns their number. Raises
    ObjectMissing, ArrowException, OSError."""
    with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        written = 0
        with parquet_writer(path, schema) as writer:
            for group in row_groups(_kept(parquet, ids_of, rows), schema):
                writer.write_table(group)
                written += group.num_rows
            if not written:
                writer.write_table(empty_table(schema))
    return written


def _kept(parquet: pq.ParquetFile, ids_of: IdsOf, rows: Identities) -> Iterator[pa.Table]:
    for batch in batches_of(parquet, _ROWS):
        table = pa.Table.from_batches([batch])
        mask = ~rows.mask(ids_of(table))
        yield table if mask.all() else table.filter(mask.to_arrow())
