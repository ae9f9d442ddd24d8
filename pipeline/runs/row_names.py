"""Rows by the key that a person knows them by: journals name a row by the digest of its key."""

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

_MOST_ROWS = 1_000_000  # looked through for one report


def names_of(store: Store, run: str, wanted: Mapping[str, set[str]]) -> dict[tuple[str, str], str]:
    """The key's text of rows, by partition and identity; `wanted`: identities by partition. Rows are found in what is
    published and among its rejects; those of a source without a key have no name."""
    request = requests.load_request(store, run)
    key = requests.load_spec_of(store, request.spec).source.key if request is not None else []
    found: dict[tuple[str, str], str] = {}
    room = _MOST_ROWS
    for partition, ids in wanted.items() if key else ():
        manifest = commits.current(store, partition)
        if manifest is None or room <= 0:
            continue
        room -= manifest.counts.rows_in
        left = set(ids)
        for identity, name in _names(store, manifest, key):
            if identity in left:
                found[partition, identity] = name
                left.discard(identity)
            if not left:
                break
    return found


def _names(store: Store, manifest: Manifest, key: list[str]) -> Iterator[tuple[str, str]]:
    for file in manifest.rejects:
        for identity, text in read_rejects(store, file.key).select("row_id", "key").iter_rows():
            yield identity, row_name(orjson.loads(text or "{}"))
    declared = load_schema(store)
    folder = dict(key_values(manifest.partition, key_schema(declared))) if declared is not None else {}
    for file in manifest.files:
        yield from _of_file(store, file.key, key, folder)


def _of_file(store: Store, file: str, key: list[str], folder: Mapping[str, pa.Scalar]) -> Iterator[tuple[str, str]]:
    """Key columns may be in the file, or in the folder's name; where a stage has dropped one, no row is known."""
    try:
        with store.open_input(file) as source, pq.ParquetFile(source) as parquet:
            there = [name for name in key if name in parquet.schema_arrow.names]
            if not there or set(key) - set(there) - folder.keys():
                return
            for batch in batches_of(parquet, 65_536, there):
                table = pa.Table.from_batches([batch])
                for name in set(key) - set(there):
                    table = table.append_column(name, pa.repeat(folder[name], table.num_rows))
                rows = pl.DataFrame(table.select(key))
                names = (row_name(row) for row in rows.iter_rows(named=True))
                yield from zip(row_ids(rows, key), names, strict=True)
    except (StoreError, OSError):
        return
