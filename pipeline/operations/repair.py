"""Mend a sink: what of ours is damaged is made again, and what is published with damaged files is published anew.

    schema.json, dataset.json    from the newest manifest, the footer of one of its files, and the source
    a manifest                   set aside; its partition is published anew
    data files, rejects, index   their partitions are published anew, from the journal

Nothing is asked of a model that the journal answers.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.client.connection import connected
from pipeline.client.follow import follow
from pipeline.operations.run import Order, final_report, prepare, start, working_on
from pipeline.outputs.verify import Problem, Verified, verify
from pipeline.planning.job import Job, make_job
from pipeline.runs.report import Report
from pipeline.sinks import commits, generations
from pipeline.sinks.schema import Dataset, claim, declare_schema
from pipeline.stores import Store
from schemas import ids
from schemas.errors import Damaged, ObjectMissing, SinkError
from schemas.manifest import Manifest
from schemas.plan import Selection
from schemas.spec.sections import Spec
from schemas.tables import stored_schema
from stages.models.factory import ModelServices

_MENDED_BY_PUBLISHING = frozenset(("missing", "size", "checksum", "rows", "schema"))
_ASIDE = f"{ids.TANDEM}/damaged/"


@dataclass(frozen=True)
class Damage:
    """What a sink needs: objects to make again, manifests to set aside, partitions to publish anew; and the problems
    that repair has no answer to."""

    rebuild: tuple[str, ...]
    aside: tuple[str, ...]
    partitions: tuple[str, ...]
    left: tuple[Problem, ...]


def examine(store: Store, partition: str | None = None) -> Damage:
    """Read everything that is published, or one partition of it. Raises StoreError where the store is away."""
    found = verify(store, partition)
    rebuild = [key for key in (ids.DATASET, ids.SCHEMA) if found.partitions and _unreadable(store, key, found)]
    aside = {key: parsed[0] for key in found.unreadable if (parsed := ids.parse_commit(key)) is not None}
    broken = [p for p in found.problems if p.kind in _MENDED_BY_PUBLISHING and p.partition and ids.SCHEMA not in p.path]
    partitions = dict.fromkeys([*(problem.partition for problem in broken), *aside.values()])
    left = [p for p in found.problems if p.kind not in (*_MENDED_BY_PUBLISHING, "damaged")]
    return Damage(tuple(rebuild), tuple(aside), tuple(partitions), tuple(left))


def _unreadable(store: Store, key: str, found: Verified) -> bool:
    return store.head(key) is None or any(p.path == f"{store.uri}/{key}" for p in found.problems if p.kind == "damaged")


def rebuild(spec: Spec, base: Path, store: Store, damage: Damage) -> None:
    """Set damaged manifests aside and make schema.json and dataset.json again. Raises SinkError where the sink is
    another pipeline's, SourceError, StoreError."""
    for key in damage.aside:
        store.put(f"{_ASIDE}{key.removeprefix(ids.COMMITS)}", store.get(key))
        store.delete([key])
    if not damage.rebuild:
        return
    manifest = _newest(store)
    if manifest is not None and manifest.pipeline != spec.name:
        raise SinkError(
            f"{store.uri} is the sink of the pipeline {manifest.pipeline!r}, not of {spec.name!r}.",
            hint="Give repair the spec of that pipeline.",
        )
    columns = _columns(store, manifest) if manifest is not None else None
    if ids.SCHEMA in damage.rebuild:
        store.delete([ids.SCHEMA])
    if ids.DATASET in damage.rebuild:
        store.delete([ids.DATASET])
    job = make_job(spec, base, store, ModelServices())
    if ids.DATASET in damage.rebuild:
        claim(store, _dataset(job, spec.name, columns))
    if ids.SCHEMA in damage.rebuild and columns is not None:
        declare_schema(store, columns, job.keys)


def _newest(store: Store) -> Manifest | None:
    """The manifest of the newest schema version, of the last commit among equals."""
    found: list[Manifest] = []
    for info in store.list(ids.COMMITS):
        parsed = ids.parse_commit(info.key)
        if parsed is not None:
            try:
                manifest = commits.read_commit(store, *parsed)
            except Damaged:
                continue
            if manifest is not None and manifest.files:
                found = [max([*found, manifest], key=lambda one: (one.schema_version, one.committed_at))]
    return found[0] if found else None


def _columns(store: Store, manifest: Manifest) -> pa.Schema | None:
    """The declared schema, from the first footer that can be read."""
    for file in manifest.files:
        place = generations.locate(store, file.key)
        if place is None:
            continue
        try:
            with store.open_input(place) as source:
                return stored_schema(pq.read_schema(source)).remove_metadata()
        except (pa.ArrowException, OSError, ObjectMissing):
            continue
    return None


def _dataset(job: Job, pipeline: str, columns: pa.Schema | None) -> Dataset:
    """Types as the source has them now; where a published column is text, it stays text."""
    types = dict(job.snapshot.info.types)
    if columns is not None:
        types |= {name: "str" for name in types if name in columns.names and columns.field(name).type == pa.string()}
    return Dataset(pipeline=pipeline, types=types, keys=job.snapshot.info.key_columns)


async def republish(spec: Spec, base: Path, partitions: tuple[str, ...]) -> Report:
    """A run over these partitions, whatever is published of them; its report."""
    order = Order(spec=spec, base=base, selection=Selection(partitions=partitions, reprocess="all"))
    ready = await asyncio.to_thread(prepare, order)
    async with connected(base) as found:
        run = await start(found, ready, order, set(partitions))
        async with working_on(found, spec.name):
            async for _ in follow(run):
                pass
        return await final_report(run)
