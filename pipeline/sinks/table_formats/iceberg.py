"""An Iceberg table over the published files, by pyiceberg.

The catalog is the one that pyiceberg's own configuration calls `tandem`; without one, a SQLite file: in the sink where
that is a folder, else under TANDEM_HOME.
"""

import contextlib
import datetime as dt
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError, ValidationException
from pyiceberg.io.pyarrow import pyarrow_to_schema
from pyiceberg.manifest import DataFile as IcebergFile
from pyiceberg.manifest import DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from pyiceberg.types import NestedField
from pyiceberg.utils.config import Config
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from pipeline.retry_policy import Overtaken, until_first
from pipeline.settings import home_of
from pipeline.sinks.table_formats.base import Lake, values
from pipeline.stores import LocalStore, Store
from pipeline.stores.s3 import S3Store
from schemas import ids
from schemas.errors import SinkError, StoreError
from schemas.manifest import DataFile, Manifest
from schemas.spec.sections import Spec

CATALOG = "tandem"
_NAMES = "schema.name-mapping.default"  # our files have no field ids, and none of the columns of their paths
# A transaction that pyiceberg itself tries again would be built on a version that we have not read.
_PROPERTIES = {"commit.retry.num-retries": "0"}
_OPENINGS = 5
_EPOCH = dt.date(1970, 1, 1)


class IcebergLake(Lake):
    def __init__(self, store: Store, spec: Spec, base: Path) -> None:
        self.root = f"file://{store.uri}" if isinstance(store, LocalStore) else store.uri
        self.name = spec.sink.table or f"{CATALOG}.{spec.name.replace('-', '_')}"
        self.catalog = _opened(store, base, self.name)

    def exists(self) -> bool:
        with _errors(self.name):
            return self._open() is not None

    def version(self, columns: pa.Schema, keys: pa.Schema) -> Table:
        with _errors(self.name):
            table = self._open()
            if table is None:
                self._create(pa.schema([*columns, *keys]), keys)
                raise Overtaken
            schema = pa.schema([*columns, *keys])
            if missing := [name for name in schema.names if name not in table.schema().column_names]:
                with table.update_schema() as update:
                    update.union_by_name(pa.schema([schema.field(name) for name in missing]))
                raise Overtaken
            return table

    def _open(self) -> Table | None:
        try:
            return self.catalog.load_table(self.name)
        except NoSuchTableError:
            return None

    def _create(self, schema: pa.Schema, keys: pa.Schema) -> None:
        self.catalog.create_namespace_if_not_exists(self.name.rpartition(".")[0])
        try:
            made = self.catalog.create_table_transaction(
                self.name, schema, location=f"{self.root}/iceberg", properties=_PROPERTIES
            )
        except (NotImplementedError, TypeError, ValueError) as exc:
            raise SinkError(f"sink.format = 'iceberg' cannot hold a column: {exc}.", hint="Use parquet.") from exc
        with made as transaction:
            with transaction.update_spec() as update:
                for name in keys.names:
                    update.add_identity(name)
            names = transaction.table_metadata.schema().name_mapping.model_dump_json()
            transaction.set_properties({_NAMES: names})

    def files(self, version: Table, keys: pa.Schema, partition: str) -> dict[str, Any]:
        folder = f"data/{partition}"
        return {key: file for key, file in self._all(version).items() if key.rpartition("/")[0] == folder}

    def _all(self, table: Table) -> dict[str, IcebergFile]:
        with _errors(self.name):
            planned = [task.file for task in table.scan().plan_files()]
        return {file.file_path.removeprefix(f"{self.root}/"): file for file in planned}

    def replace(
        self, version: Table, keys: pa.Schema, manifest: Manifest, gone: dict[str, Any], new: Sequence[DataFile]
    ) -> None:
        partition = _record(keys, manifest.partition)
        properties = {"tandem.partition": manifest.partition, "tandem.generation": str(manifest.generation),
                "tandem.run": manifest.run, "tandem.nonce": manifest.nonce}  # fmt: skip
        with (
            _errors(self.name),
            version.transaction() as transaction,
            transaction.update_snapshot(snapshot_properties=properties).overwrite() as overwrite,
        ):
            for file in gone.values():
                overwrite.delete_data_file(file)
            for one in new:
                overwrite.append_data_file(self._file(one, partition, version.spec().spec_id))

    def outgrown(self, version: Table, columns: pa.Schema, keys: pa.Schema, former: Container[str]) -> list[str]:
        declared = {field.name: field for field in [*columns, *keys]}
        table = version.schema()
        return [
            field.name
            for field in table.fields
            if (not _is(field, declared[field.name], table) if field.name in declared else field.name in former)
        ]

    def change_columns(
        self,
        version: Table,
        columns: pa.Schema,
        keys: pa.Schema,
        outgrown: Sequence[str],
        manifests: Sequence[Manifest],
    ) -> None:
        """A column of another type is a new column of the same name: no reader takes former values for present ones."""
        changed = [field for field in columns if field.name in outgrown]
        with _errors(self.name):
            former = list(self._all(version).values())
            with version.transaction() as transaction:
                with transaction.update_schema(allow_incompatible_changes=True) as update:
                    for name in outgrown:
                        update.delete_column((name,))
                with transaction.update_schema() as update:
                    update.union_by_name(pa.schema(changed))
                names = transaction.table_metadata.schema().name_mapping.model_dump_json()
                transaction.set_properties({_NAMES: names})
                properties = {"tandem.columns": ", ".join(outgrown)}
                with transaction.update_snapshot(snapshot_properties=properties).overwrite() as overwrite:
                    for file in former:
                        overwrite.delete_data_file(file)
                    for manifest in manifests:
                        partition = _record(keys, manifest.partition)
                        for one in manifest.files:
                            overwrite.append_data_file(self._file(one, partition, version.spec().spec_id))

    def _file(self, file: DataFile, partition: Record, spec_id: int) -> IcebergFile:
        absent: dict[str, Any] = dict.fromkeys(
            ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts", "lower_bounds", "upper_bounds",
             "split_offsets", "equality_ids", "sort_order_id", "key_metadata")
        )  # fmt: skip
        return IcebergFile.from_args(
            content=DataFileContent.DATA,
            file_path=f"{self.root}/{file.key}",
            file_format=FileFormat.PARQUET,
            partition=partition,
            record_count=file.rows,
            file_size_in_bytes=file.size,
            spec_id=spec_id,
            **absent,
        )

    def all_files(self) -> set[str]:
        with _errors(self.name):
            table = self._open()
        return set() if table is None else set(self._all(table))

    def close(self) -> None:
        self.catalog.close()


def _opened(store: Store, base: Path, name: str) -> Catalog:
    """Open the catalog; try again, as two processes that create the tables of one new catalog can collide."""

    def attempt() -> Catalog:
        with _errors(name):
            return catalog_of(store, base)

    return until_first(attempt, attempts=_OPENINGS, spread_s=0.2)


def catalog_of(store: Store, base: Path) -> Catalog:
    """Return the configured catalog, else a SQLite file."""
    configured = Config().get_catalog_config(CATALOG) or {}
    access = _access(store)
    if configured:
        return load_catalog(CATALOG, **{name: value for name, value in access.items() if name not in configured})
    folder = Path(store.uri) / ids.TANDEM if isinstance(store, LocalStore) else home_of(base)
    folder.mkdir(parents=True, exist_ok=True)
    return SqlCatalog(CATALOG, uri=f"sqlite:///{folder / 'iceberg.db'}?timeout=30", **access)


def _access(store: Store) -> dict[str, str]:
    """Return credentials and endpoint as boto3 found them."""
    if not isinstance(store, S3Store):
        return {}
    options = store.options()
    names = {
        "s3.endpoint": "aws_endpoint_url", "s3.access-key-id": "aws_access_key_id", "s3.region": "aws_region",
        "s3.secret-access-key": "aws_secret_access_key", "s3.session-token": "aws_session_token",
    }  # fmt: skip
    return {name: options[ours] for name, ours in names.items() if ours in options}


def _is(field: NestedField, declared: pa.Field, table: Schema) -> bool:
    """True if a column of the table has the declared type."""
    try:
        converted = pyarrow_to_schema(pa.schema([declared]), name_mapping=table.name_mapping)
    except (ValueError, TypeError, NotImplementedError):  # a nested field that the table does not have
        return False
    return bool(converted.find_type(field.name) == field.field_type)


def _record(keys: pa.Schema, partition: str) -> Record:
    return Record(*(_value(value) for value in values(keys, partition).values()))


def _value(value: pa.Scalar) -> Any:
    """Convert to days and microseconds since 1970, as Iceberg keeps dates and times."""
    plain = value.as_py()
    if plain is None:
        return None
    if pa.types.is_date(value.type):
        return (plain - _EPOCH).days
    if pa.types.is_timestamp(value.type):
        return value.cast(pa.int64()).as_py()
    return plain


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    try:
        yield
    except (CommitFailedException, ValidationException, TableAlreadyExistsError, IntegrityError) as exc:
        raise Overtaken from exc
    except OperationalError as exc:
        if "already exists" in str(exc):
            raise Overtaken from exc
        raise StoreError(f"The catalog of the Iceberg table {name} cannot be used: {exc.orig}.") from exc
    except (SQLAlchemyError, OSError) as exc:
        raise StoreError(f"The Iceberg table {name} cannot be read or written: {exc}.") from exc
