"""Table formats over the published files: a Delta or Iceberg table that names exactly the files of current manifests.

The manifest stays the truth. Once a generation is committed, one transaction of the table takes the partition's former
files out and puts the new ones in; no byte is written twice. A transaction is made from the table's version as it was
read before the manifest, and fails if another one came between. So any attempt, late or twice, a zombie's included, can
only bring the table to the current state, or finds it there.

A change of columns that is not additive reaches the table at once: until every partition has the present columns, the
table keeps the former ones with the former files, and the marks of partitions published meanwhile stay; then one
transaction changes columns and files together.

A mark is put before the commit and removed once the table has followed: if the process dies in between, the partition's
next attempt or the end of any run brings the table up to date.
"""

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.process_state import STATE
from pipeline.retry_policy import Overtaken, until_first
from pipeline.sinks import catalogue, commits
from pipeline.sinks.schema import DeclaredSchema, column_change, key_schema, load_schema
from pipeline.sinks.table_formats.base import Lake
from pipeline.stores import Store
from schemas import ids
from schemas.errors import SpecError, StoreError
from schemas.spec.sections import Spec
from schemas.tables import decode_schema

Answer = TypeVar("Answer")
_TRIES = 60
_READERS = 16
_NEEDS = {"delta": "deltalake", "iceberg": "pyiceberg"}


def refuse_absent(spec: Spec) -> None:
    """Raise SpecError if the library of the sink's format is not installed."""
    needed = _NEEDS.get(spec.sink.format)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise SpecError(
            f"sink.format = {spec.sink.format!r} needs the package {needed}.",
            hint=f"pip install 'tandem-pipeline[{spec.sink.format}]'",
        )


def lake_of(spec: Spec, base: Path, store: Store) -> Lake | None:
    """Return the table of a sink, None if it is plain Parquet."""
    if spec.sink.format == "delta":
        from pipeline.sinks.table_formats.delta import DeltaLake

        return DeltaLake(store, spec.name)
    if spec.sink.format == "iceberg":
        from pipeline.sinks.table_formats.iceberg import IcebergLake

        return IcebergLake(store, spec, base)
    return None


def mark(store: Store, partition: str) -> None:
    """Mark, before a commit, that the table is about to lag behind."""
    store.put(ids.lagging(partition), b"{}")


def follow(lake: Lake, store: Store, partition: str) -> None:
    """Bring the table to the partition's current generation, and take the mark away; leave both while the table keeps
    former columns. Raises StoreError."""

    def attempt() -> None:
        if _follow_once(lake, store, partition):
            store.delete([ids.lagging(partition)])

    _transact(store, attempt, partition)


def _transact(store: Store, attempt: Callable[[], Answer], subject: str) -> Answer:
    """Return the result of the first attempt that no other transaction overtakes. Raises StoreError."""

    def alone() -> Answer:
        with STATE.table_transactions:
            return attempt()

    try:
        return until_first(alone, attempts=_TRIES, spread_s=1.0)
    except Overtaken as exc:
        raise StoreError(
            f"{store.uri}: the table could not follow {subject}: others committed to it {_TRIES} times meanwhile.",
            hint="The partition is published, and the next run brings the table up to it.",
        ) from exc


def _follow_once(lake: Lake, store: Store, partition: str) -> bool:
    """Return True if the table has the partition's current generation."""
    declared = load_schema(store)
    if declared is None:
        return True
    keys = key_schema(declared)
    if not lake.exists():  # the sink's first, or lost: what is published already belongs in it too
        for info in store.list(ids.COMMITS):
            if (parsed := ids.parse_commit(info.key)) is not None and parsed[1] == 1:
                mark(store, parsed[0])
    version = lake.version(decode_schema(declared.arrow_schema), keys)
    if _outgrown(lake, version, declared):
        return False
    manifest = commits.current(store, partition)  # after the table: what is newer then makes the transaction fail
    if manifest is None:
        return True
    if manifest.schema_version > declared.version:  # the columns changed since they were read
        raise Overtaken
    if column_change(declared).outdates(manifest):
        return False
    present = lake.files(version, keys, partition)
    required = {file.key: file for file in manifest.files}
    if present.keys() != required.keys():
        gone = {key: file for key, file in present.items() if key not in required}
        lake.replace(version, keys, manifest, gone, [file for key, file in required.items() if key not in present])
    return True


def columns_behind(lake: Lake, store: Store) -> bool:
    """True if the table keeps former columns until every partition has the present ones. Raises StoreError."""
    declared = load_schema(store)
    if declared is None or declared.compatible_since == 1 or not lake.exists():
        return False
    version = lake.version(decode_schema(declared.arrow_schema), key_schema(declared))
    return bool(_outgrown(lake, version, declared))


def _outgrown(lake: Lake, version: Any, declared: DeclaredSchema) -> list[str]:
    if declared.compatible_since == 1:
        return []
    former = {name for columns in declared.earlier for name in columns}
    return lake.outgrown(version, decode_schema(declared.arrow_schema), key_schema(declared), former)


def _change_columns(lake: Lake, store: Store) -> bool:
    """Give the table the present columns and files, if it has former ones and every partition the present ones. Return
    False while some partition has not."""
    declared = load_schema(store)
    if declared is None or declared.compatible_since == 1 or not lake.exists():
        return True
    columns, keys = decode_schema(declared.arrow_schema), key_schema(declared)
    version = lake.version(columns, keys)
    outgrown = _outgrown(lake, version, declared)
    if not outgrown:
        return True
    change = column_change(declared)
    listed = catalogue.published(store)
    if any(map(change.outdates, catalogue.manifests(listed))):
        return False
    with ThreadPoolExecutor(_READERS, thread_name_prefix="tandem-columns") as threads:
        current = threads.map(partial(commits.read_commit, store), listed["partition"], listed["generation"])
        manifests = [manifest for manifest in current if manifest is not None and manifest.present]
    lake.change_columns(version, columns, keys, outgrown, manifests)
    return True


def catch_up(lake: Lake, store: Store) -> list[str]:
    """Follow every marked partition. Returns the partitions; none while the table keeps former columns."""
    lagging = [info.key.removeprefix(ids.LAGGING).removesuffix(".json") for info in store.list(ids.LAGGING)]
    if not lagging or not _transact(store, partial(_change_columns, lake, store), "a change of columns"):
        return []
    for partition in lagging:
        follow(lake, store, partition)
    return lagging
