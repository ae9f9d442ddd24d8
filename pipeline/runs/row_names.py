"""Readable names of rows, from their keys: journals name a row by the digest of its key."""

from collections.abc import Iterator, Mapping

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runs import requests
from pipeline.sinks import commits
from pipeline.sinks.row_files import read_rejects, row_name
from pipeline.sinks.schema import key_schema, key_values, load_schema
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of
from schemas.errors import StoreError
from schemas.manifest import Manifest
from stages.journal.fingerprints import row_ids

_MOST_ROWS = 1_000_000  # searched for one report


def names_of(store: Store, run: str, identities: Mapping[str, set[str]]) -> dict[tuple[str, str], str]:
    """Return the key's text of rows, by partition and identity; `identities` are by partition. Rows are found in the
    published files and their rejects; those of a source without a key have no name."""
    request = requests.load_request(store, run)
    key = requests.load_spec_of(store, request.spec).source.key if request is not None else []
    found: dict[tuple[str, str], str] = {}
    room = _MOST_ROWS
    for partition, row_identities in identities.items() if key else ():
        manifest = commits.current(store, partition)
        if manifest is None or room <= 0:
            continue
        room -= manifest.counts.rows_in
        left = set(row_identities)
        for identity, name in names_in(store, manifest, key):
            if identity in left:
                found[partition, identity] = name
                left.discard(identity)
            if not left:
                break
    return found


def names_in(store: Store, manifest: Manifest, key: list[str]) -> Iterator[tuple[str, str]]:
    """Yield identity and name of the rejected and published rows of a generation."""
    for file in manifest.rejects:
        for identity, text in read_rejects(store, file.key).select("row_id", "key").iter_rows():
            yield identity, row_name(orjson.loads(text or "{}"))
    declared = load_schema(store)
    folder = dict(key_values(manifest.partition, key_schema(declared))) if declared is not None else {}
    for file in manifest.files:
        yield from _of_file(store, file.key, key, folder)


def _of_file(store: Store, file: str, key: list[str], folder: Mapping[str, pa.Scalar]) -> Iterator[tuple[str, str]]:
    """Yield a file's rows. Key columns may be in the file or in the folder's name; if one is missing, yield none."""
    try:
        with store.open_input(file) as source, pq.ParquetFile(source) as parquet:
            present = [name for name in key if name in parquet.schema_arrow.names]
            if not present or set(key) - set(present) - folder.keys():
                return
            for batch in batches_of(parquet, 65_536, present):
                table = pa.Table.from_batches([batch])
                for name in set(key) - set(present):
                    table = table.append_column(name, pa.repeat(folder[name], table.num_rows))
                rows = pl.DataFrame(table.select(key))
                names = (row_name(row) for row in rows.iter_rows(named=True))
                yield from zip(row_ids(rows, key), names, strict=True)
    except (StoreError, OSError):
        return
