"""A Delta table over `<sink>/data`, by delta-rs."""

import contextlib
import json
import time
from collections.abc import Container, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, create_table_with_add_actions

from pipeline.retry_policy import Overtaken
from pipeline.sinks.table_formats.base import Lake, values
from pipeline.stores import Store
from pipeline.stores.s3 import S3Store
from schemas.errors import SinkError, StoreError
from schemas.manifest import DataFile, Manifest

_ROOT = "data/"


class DeltaLake(Lake):
    """`version` is a DeltaTable that was read once and not since."""

    def __init__(self, store: Store, name: str) -> None:
        self.uri = f"{store.uri}/data"
        self.name = name
        # Put-if-absent is what a commit is; AWS S3, SeaweedFS and MinIO have it.
        self.options = {**store.options(), "aws_conditional_put": "etag"} if isinstance(store, S3Store) else None

    def exists(self) -> bool:
        return self._open() is not None

    def version(self, columns: pa.Schema, keys: pa.Schema) -> DeltaTable:
        schema = self._schema(columns, keys)
        table = self._open()
        if table is None:
            with contextlib.suppress(CommitFailedError, DeltaError):  # another process made it
                create_table_with_add_actions(
                    self.uri, schema, [], mode="error", partition_by=keys.names, name=self.name,
                    storage_options=self.options,
                )  # fmt: skip
            table = self._open()
            if table is None:
                raise StoreError(f"{self.uri}: the Delta table could not be made.")
        present = {field.name for field in table.schema().fields}
        missing = [field for field in schema.fields if field.name not in present]
        if missing:
            with _errors(self.uri):
                table.alter.add_columns(missing)
            raise Overtaken
        return table

    def _schema(self, columns: pa.Schema, keys: pa.Schema) -> Schema:
        try:
            return Schema.from_arrow(pa.schema([*columns, *keys]))
        except Exception as exc:
            raise SinkError(f"sink.format = 'delta' cannot hold a column: {exc}.", hint="Use parquet.") from exc

    def _open(self) -> DeltaTable | None:
        with _errors(self.uri):
            try:
                return DeltaTable(self.uri, storage_options=self.options)
            except TableNotFoundError:
                return None

    def files(self, version: DeltaTable, keys: pa.Schema, partition: str) -> dict[str, Any]:
        prefix = f"{_ROOT}{partition}/"
        found = {f"{_ROOT}{unquote(path)}": path for path in _paths(version)}
        return {key: path for key, path in found.items() if key.rpartition("/")[0] == prefix.rstrip("/")}

    def replace(
        self, version: DeltaTable, keys: pa.Schema, manifest: Manifest, gone: dict[str, Any], new: Sequence[DataFile]
    ) -> None:
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            RemoveAction(path=key.removeprefix(_ROOT), deletion_timestamp=now, data_change=True) for key in gone
        ]
        actions += _added(keys, manifest, new, now)
        made = {"tandem.partition": manifest.partition, "tandem.generation": str(manifest.generation),
                "tandem.run": manifest.run, "tandem.nonce": manifest.nonce}  # fmt: skip
        self._write(version, actions, "append", version.schema(), keys, made)

    def outgrown(self, version: DeltaTable, columns: pa.Schema, keys: pa.Schema, former: Container[str]) -> list[str]:
        declared = {field.name: field.type for field in self._schema(columns, keys).fields}
        return [
            field.name
            for field in version.schema().fields
            if (declared[field.name] != field.type if field.name in declared else field.name in former)
        ]

    def change_columns(
        self,
        version: DeltaTable,
        columns: pa.Schema,
        keys: pa.Schema,
        outgrown: Sequence[str],
        manifests: Sequence[Manifest],
    ) -> None:
        declared = self._schema(columns, keys).fields
        names = {field.name for field in declared}
        others = [f for f in version.schema().fields if f.name not in names and f.name not in outgrown]
        now = int(time.time() * 1000)
        actions = [action for manifest in manifests for action in _added(keys, manifest, manifest.files, now)]
        schema = Schema([*declared, *others])
        self._write(version, actions, "overwrite", schema, keys, {"tandem.columns": ", ".join(outgrown)})

    def _write(
        self,
        version: DeltaTable,
        actions: Sequence[AddAction | RemoveAction],
        mode: str,
        schema: Schema,
        keys: pa.Schema,
        made: dict[str, str],
    ) -> None:
        """Write one transaction; `overwrite` also removes all files that the table has."""
        with _errors(self.uri):
            version.create_write_transaction(
                list(actions),
                mode=mode,
                schema=schema,
                partition_by=keys.names,
                commit_properties=CommitProperties(custom_metadata=made, max_commit_retries=0),
            )

    def all_files(self) -> set[str]:
        table = self._open()
        return set() if table is None else {f"{_ROOT}{unquote(path)}" for path in _paths(table)}

    def close(self) -> None:
        pass


def _added(keys: pa.Schema, manifest: Manifest, files: Sequence[DataFile], now: int) -> list[AddAction]:
    texts = _values(keys, manifest.partition)
    return [
        AddAction(
            path=file.key.removeprefix(_ROOT), size=file.size, partition_values=texts, modification_time=now,
            data_change=True, stats=json.dumps({"numRecords": file.rows}),
        )
        for file in files
    ]  # fmt: skip


def _paths(table: DeltaTable) -> list[str]:
    paths: list[str] = pa.table(table.get_add_actions())["path"].to_pylist()
    return paths


def _values(keys: pa.Schema, partition: str) -> dict[str, str | None]:
    """Format values as Delta writes them: text, with a blank in a time."""
    texts: dict[str, str | None] = {}
    for name, value in values(keys, partition).items():
        plain = value.as_py()
        if plain is None or isinstance(plain, str):
            texts[name] = plain
        elif isinstance(plain, bool):
            texts[name] = "true" if plain else "false"
        elif pa.types.is_timestamp(value.type):
            texts[name] = f"{plain:%Y-%m-%d %H:%M:%S.%f}"
        else:
            texts[name] = str(plain)
    return texts


@contextlib.contextmanager
def _errors(uri: str) -> Iterator[None]:
    try:
        yield
    except TableNotFoundError:
        raise
    except CommitFailedError as exc:
        raise Overtaken from exc
    except (DeltaError, OSError) as exc:
        raise StoreError(f"{uri}: the Delta table cannot be read or written: {exc}.") from exc
