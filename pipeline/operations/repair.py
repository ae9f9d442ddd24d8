"""Repair a sink: rebuild Tandem's own damaged files, and publish partitions with damaged files again.

    schema.json, dataset.json    from the newest manifest, the footer of one of its files, and the source
    a manifest                   set aside; its partition is published again
    data files, rejects, index   their partitions are published again, from the journal
    a table (Delta, Iceberg)     likewise, where it names other files

Answers come from the journal; models are called only for what it lacks.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.client.connection import connected
from pipeline.client.follow import follow
from pipeline.clouds import model_services
from pipeline.operations.run import Order, final_report, prepare, start, working_on
from pipeline.outputs import scan
from pipeline.outputs.verify import Problem, Verified, verify
from pipeline.planning.job import Job
from pipeline.planning.preparation import make_job
from pipeline.runs.report import Report
from pipeline.sinks import commits, generations
from pipeline.sinks.schema import Dataset, claim, restore_schema
from pipeline.sinks.table_formats.follow import lake_of
from pipeline.stores import Store
from schemas import ids
from schemas.errors import Damaged, ObjectMissing, SinkError
from schemas.manifest import Manifest
from schemas.plan import Selection
from schemas.spec.sections import Spec
from schemas.tables import stored_schema

_REPAIRED_BY_PUBLISHING = frozenset(("missing", "size", "checksum", "rows", "schema", "table"))
_ASIDE = f"{ids.TANDEM}/damaged/"


@dataclass(frozen=True)
class Damage:
    """The repairs of a sink: objects to rebuild, manifests to set aside, partitions to publish again; and the problems
    left that cannot be repaired."""

    rebuild: tuple[str, ...]
    aside: tuple[str, ...]
    partitions: tuple[str, ...]
    left: tuple[Problem, ...]


def examine(spec: Spec, base: Path, store: Store, partition: str | None = None) -> Damage:
    """Read everything that is published, or one partition, and return the damage. Raises StoreError."""
    lake = lake_of(spec, base, store)
    with contextlib.closing(lake) if lake is not None else contextlib.nullcontext():
        found = verify(store, partition, lake=lake)
    rebuild = [key for key in (ids.DATASET, ids.SCHEMA) if found.partitions and _unreadable(store, key, found)]
    aside = {key: parsed[0] for key in found.unreadable if (parsed := ids.parse_commit(key)) is not None}
    broken = [
        p for p in found.problems if p.kind in _REPAIRED_BY_PUBLISHING and p.partition and ids.SCHEMA not in p.path
    ]
    partitions = dict.fromkeys([*(problem.partition for problem in broken), *aside.values()])
    left = [p for p in found.problems if p.kind not in (*_REPAIRED_BY_PUBLISHING, "damaged")]
    return Damage(tuple(rebuild), tuple(aside), tuple(partitions), tuple(left))


def _unreadable(store: Store, key: str, found: Verified) -> bool:
    return store.head(key) is None or any(p.path == f"{store.uri}/{key}" for p in found.problems if p.kind == "damaged")


def rebuild(spec: Spec, base: Path, store: Store, damage: Damage) -> None:
    """Set damaged manifests aside and rebuild schema.json and dataset.json. Raises SinkError if the sink belongs to
    another pipeline, SourceError, StoreError."""
    for key in damage.aside:
        store.put(f"{_ASIDE}{key.removeprefix(ids.COMMITS)}", store.get(key))
        store.delete([key])
    if not damage.rebuild:
        return
    manifest = _newest(store)
    if manifest is not None and manifest.pipeline != spec.name:
        raise SinkError(
            f"{store.uri} is the sink of the pipeline {manifest.pipeline!r}, not of {spec.name!r}.",
            hint="Run repair with the spec of that pipeline.",
        )
    columns = _columns(store, manifest) if manifest is not None else None
    if ids.SCHEMA in damage.rebuild:
        store.delete([ids.SCHEMA])
    if ids.DATASET in damage.rebuild:
        store.delete([ids.DATASET])
    job = make_job(spec, base, store, model_services())
    if ids.DATASET in damage.rebuild:
        claim(store, _dataset(job, spec.name, columns))
    if ids.SCHEMA in damage.rebuild and manifest is not None and columns is not None:
        version = manifest.schema_version
        restore_schema(store, columns, job.keys, version, _former(store, version))


def _newest(store: Store) -> Manifest | None:
    """Return the manifest with the newest schema version, the last commit among equals."""
    newest: list[Manifest] = []
    for info in store.list(ids.COMMITS):
        parsed = ids.parse_commit(info.key)
        if parsed is not None:
            try:
                manifest = commits.read_commit(store, *parsed)
            except Damaged:
                continue
            if manifest is not None and manifest.files:
                newest = [max([*newest, manifest], key=lambda one: (one.schema_version, one.committed_at))]
    return newest[0] if newest else None


def _former(store: Store, version: int) -> dict[int, pa.Schema]:
    """Return the columns of the earlier versions of the schema that current generations have."""
    found: dict[int, pa.Schema] = {}
    for manifest in scan.manifests(store):
        older = manifest.schema_version < version and manifest.schema_version not in found
        if older and (columns := _columns(store, manifest)) is not None:
            found[manifest.schema_version] = columns
    return found


def _columns(store: Store, manifest: Manifest) -> pa.Schema | None:
    """Return the declared schema from the first readable footer, else None."""
    for file in manifest.files:
        location = generations.locate(store, file.key)
        if location is None:
            continue
        try:
            with store.open_input(location) as source:
                return stored_schema(pq.read_schema(source)).remove_metadata()
        except (pa.ArrowException, OSError, ObjectMissing):
            continue
    return None


def _dataset(job: Job, pipeline: str, columns: pa.Schema | None) -> Dataset:
    """Return the dataset with the source's current types; a column that was published as text stays text."""
    types = dict(job.snapshot.info.types)
    if columns is not None:
        types |= {name: "str" for name in types if name in columns.names and columns.field(name).type == pa.string()}
    return Dataset(pipeline=pipeline, types=types, keys=job.snapshot.info.key_columns)


async def republish(spec: Spec, base: Path, partitions: tuple[str, ...]) -> Report:
    """Run these partitions again, whatever is published. Return the report of the run."""
    order = Order(spec=spec, base=base, selection=Selection(partitions=partitions, reprocess="all"))
    ready = await asyncio.to_thread(prepare, order)
    async with connected(base) as connection:
        run = await start(connection, ready, order, set(partitions))
        async with working_on(connection, spec.name):
            async for _ in follow(run):
                pass
        return await final_report(run)
