"""Opening a partition: what is published, what its rows are, what the journal knows of them, and its batches.

No Temporal here: `pipeline.activities` calls this in threads.
"""

import datetime as dt
import hashlib
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline import commit as commits
from pipeline import journals, planning
from pipeline.plans import Job, Plan, unchanged
from pipeline.sources.snapshot import Entry, RowRange
from pipeline.stores import Store
from schemas import ids
from schemas.errors import DuplicateKeys
from schemas.manifest import Noun
from stages.contract import GraphStage
from stages.fingerprints import fingerprints

Note = Callable[[int], None]


class PlannedBatch(Noun):
    """The rows of one batch, and the object of what the journal knows of them (None: nothing)."""

    rows: int
    ranges: tuple[RowRange, ...]
    known: str | None = None


class OpenedPartition(Noun):
    """Written by `open`, read by every batch and by `publish`. `whole` false: `--limit-rows` cut it."""

    partition: str
    base: int
    input_fingerprint: str
    rows: int
    whole: bool
    batches: tuple[PlannedBatch, ...]
    folder: str
    damage: tuple[str, ...] = ()
    started_at: dt.datetime


@dataclass(frozen=True)
class Opening:
    """The opened partition and its key; None where it is published already just as it would be."""

    key: str | None
    opened: OpenedPartition | None
    base: int


def open_partition(
    job: Job, plan: Plan, store: Store, partition: str, *, limit: int, folder: str, rerun: bool, note: Note
) -> Opening:
    """Fix the base generation and the batches. `limit` rows at most; `rerun`: even if nothing changed. Raises
    DuplicateKeys, InputChanged, StoreError."""
    current = commits.current(store, partition)
    base = current.generation if current else 0
    entry = job.snapshot.entry(partition)
    if not rerun and unchanged(current, entry.fingerprint, plan.stages):
        return Opening(None, None, base)
    size = planning.batch_rows(min(limit, entry.rows), job.spec.limits.batch_rows)
    batches = dealt_batches(entry, size, limit)
    knows = not plan.selection.fresh and has_journal(store, partition)
    damage: list[str] = []
    if job.spec.source.key or knows:
        batches, damage = _joined(job, store, partition, batches, folder, knows=knows, note=note)
    opened = OpenedPartition(
        partition=partition,
        base=base,
        input_fingerprint=entry.fingerprint,
        rows=sum(batch.rows for batch in batches),
        whole=limit >= entry.rows,
        batches=tuple(batches),
        folder=folder,
        damage=tuple(damage),
        started_at=dt.datetime.now(dt.UTC),
    )
    key = f"{folder}open-{uuid.uuid4().hex[:12]}.json"
    store.put_absent(key, opened.model_dump_json().encode())
    return Opening(key, opened, base)


def load_opened(store: Store, key: str) -> OpenedPartition:
    return OpenedPartition.model_validate_json(store.get(key))


def dealt_batches(entry: Entry, size: int, limit: int) -> list[PlannedBatch]:
    """Batches of `size` rows over the first `limit` rows of a partition."""
    counts, room = [], limit
    for found in entry.ranges:
        counts.append(min(found.rows, room))
        room -= counts[-1]
    out = []
    for dealt in planning.deal(counts, size):
        ranges = tuple(
            RowRange(file=entry.ranges[number].file, start=entry.ranges[number].start + at, rows=rows)
            for number, at, rows in dealt
        )
        out.append(PlannedBatch(rows=sum(r.rows for r in ranges), ranges=ranges))
    return out


def row_ids(rows: pl.DataFrame, key: list[str]) -> list[str]:
    """The identity of each row: of its key columns, else of its whole content."""
    return fingerprints(rows, key or rows.columns)


def has_journal(store: Store, partition: str) -> bool:
    return next(iter(store.list(ids.journal_folder(partition))), None) is not None


def wanted_of(job: Job, rows: pl.DataFrame, batch: int) -> pl.DataFrame:
    """What the journal is joined by for a batch: its rows' identities, and their fingerprints for the stages that read
    the source's columns."""
    keys = row_ids(rows, job.spec.source.key)
    for stage in job.stages:
        if isinstance(stage, GraphStage) and set(stage.reads) <= set(job.snapshot.schema.names):
            keys = [*keys, *fingerprints(rows, stage.reads)]
    return pl.DataFrame({"batch": pl.Series([batch] * len(keys), dtype=pl.Int64), "key": keys})


def _joined(
    job: Job, store: Store, partition: str, batches: list[PlannedBatch], folder: str, *, knows: bool, note: Note
) -> tuple[list[PlannedBatch], list[str]]:
    """Read the rows once, a batch at a time: keys must be unique, and the journal is joined against them."""
    key = job.spec.source.key
    seen: set[str] = set()
    wanted: list[pl.DataFrame] = []
    for number, batch in enumerate(batches):
        rows = job.snapshot.read(partition, batch.ranges)
        if key:
            _refuse_duplicates(rows, row_ids(rows, key), seen, key, partition)
        if knows:
            wanted.append(wanted_of(job, rows, number))
        note(rows.height)
    if not knows or not wanted:
        return batches, []
    with tempfile.TemporaryDirectory(prefix="tandem-") as local:
        files, damage = journals.deal_known(store, partition, pl.concat(wanted), Path(local))
        for number, path in files.items():
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            target = ids.staged(folder, number, "known", content, "jsonl")
            store.upload(target, path)
            batches[number] = batches[number].model_copy(update={"known": target})
            note(0)
    return batches, damage


def _refuse_duplicates(
    rows: pl.DataFrame, identities: list[str], seen: set[str], key: list[str], partition: str
) -> None:
    for at, identity in enumerate(identities):
        if identity in seen:
            shown = ", ".join(f"{name}={rows[name][at]!r}" for name in key)
            raise DuplicateKeys(
                f"{partition}: two rows have the key {shown}.",
                hint="Mend the source, name more columns in source.key, or leave source.key out.",
            )
        seen.add(identity)
