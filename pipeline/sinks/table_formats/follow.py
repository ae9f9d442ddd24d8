"""Table formats over the published files: a Delta or Iceberg table that names exactly the files of current manifests.

The manifest stays the truth. Once a generation is committed, one transaction of the table takes the partition's former
files out and puts the new ones in; no byte is written twice. A transaction is made from the table's version as it was
read before the manifest, and fails if another one came between. So any attempt, late or twice, a zombie's included, can
only bring the table to the current state, or finds it there.

A mark is put before the commit and removed once the table has followed: if the process dies in between, the partition's
next attempt or the end of any run brings the table up to date.
"""

import importlib.util
from pathlib import Path

from pipeline.process_state import STATE
from pipeline.retry_policy import Overtaken, until_first
from pipeline.sinks import commits
from pipeline.sinks.schema import key_schema, load_schema
from pipeline.sinks.table_formats.base import Lake
from pipeline.stores import Store
from schemas import ids
from schemas.errors import SpecError, StoreError
from schemas.spec.sections import Spec
from schemas.tables import decode_schema

_TRIES = 60
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
    """Bring the table to the partition's current generation, and take the mark away. Raises StoreError."""

    def attempt() -> None:
        with STATE.table_transactions:
            _follow_once(lake, store, partition)
            store.delete([ids.lagging(partition)])

    try:
        until_first(attempt, attempts=_TRIES, spread_s=1.0)
    except Overtaken as exc:
        raise StoreError(
            f"{store.uri}: the table could not follow {partition}: others committed to it {_TRIES} times meanwhile.",
            hint="The partition is published, and the next run brings the table up to it.",
        ) from exc


def _follow_once(lake: Lake, store: Store, partition: str) -> None:
    declared = load_schema(store)
    if declared is None:
        return
    keys = key_schema(declared)
    if not lake.exists():  # the sink's first, or lost: what is published already belongs in it too
        for info in store.list(ids.COMMITS):
            if (parsed := ids.parse_commit(info.key)) is not None and parsed[1] == 1:
                mark(store, parsed[0])
    version = lake.version(decode_schema(declared.arrow_schema), keys)
    manifest = commits.current(store, partition)  # after the table: what is newer then makes the transaction fail
    if manifest is None:
        return
    present = lake.files(version, keys, partition)
    required = {file.key: file for file in manifest.files}
    if present.keys() != required.keys():
        gone = {key: file for key, file in present.items() if key not in required}
        lake.replace(version, keys, manifest, gone, [file for key, file in required.items() if key not in present])


def catch_up(lake: Lake, store: Store) -> list[str]:
    """Follow every marked partition. Returns the partitions."""
    lagging = [info.key.removeprefix(ids.LAGGING).removesuffix(".json") for info in store.list(ids.LAGGING)]
    for partition in lagging:
        follow(lake, store, partition)
    return lagging
