"""The interface of a table format. Overtaken (`pipeline.retry_policy`): another transaction came between reading the
table and writing to it."""

from collections.abc import Container, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipeline.sinks.schema import key_values
from schemas.manifest import DataFile, Manifest


class Lake(Protocol):
    """A table of some format. `version` is the state that `files` reads, and that `replace` builds on."""

    def exists(self) -> bool: ...

    def version(self, columns: pa.Schema, keys: pa.Schema) -> Any:
        """Return the table as it is now; create it or add columns where needed. Raises Overtaken, StoreError."""

    def files(self, version: Any, keys: pa.Schema, partition: str) -> dict[str, Any]:
        """The partition's files in the table, by key in the sink."""
        ...

    def replace(
        self,
        version: Any,
        keys: pa.Schema,
        manifest: Manifest,
        gone: dict[str, Any],
        new: Sequence[DataFile],
    ) -> None:
        """Replace files in one transaction. Raises Overtaken where the table has left that version, StoreError."""

    def outgrown(self, version: Any, columns: pa.Schema, keys: pa.Schema, former: Container[str]) -> list[str]:
        """Return the table's columns that are declared no more, or with another type. `former`: the columns of earlier
        versions of the schema; any other column belongs to another writer, and stays."""
        ...

    def change_columns(
        self, version: Any, columns: pa.Schema, keys: pa.Schema, outgrown: Sequence[str], manifests: Sequence[Manifest]
    ) -> None:
        """Replace outgrown columns, and all files by those of the manifests, in one transaction. Raises Overtaken,
        StoreError."""

    def all_files(self) -> set[str]:
        """Keys of all files that the table names now."""
        ...

    def close(self) -> None: ...


def values(keys: pa.Schema, partition: str) -> dict[str, pa.Scalar]:
    """The partition's keys, typed."""
    return dict(key_values(partition, keys))
