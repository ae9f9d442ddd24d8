"""Rollback: publish an earlier generation again as a new one, from the files that history keeps. No calls."""

import datetime as dt
import uuid
from pathlib import Path

from pipeline.publishing import commit_partition
from pipeline.sinks import commits, generations
from pipeline.sinks.schema import load_schema
from pipeline.stores import Store
from schemas import ids
from schemas.errors import SchemaChanged, UsageError
from schemas.manifest import DataFile, Manifest, Reuse, Usage
from schemas.plan import REPUBLISH
from schemas.spec.sections import Spec


def rollback(spec: Spec, base: Path, store: Store, partition: str, to: int | None = None) -> tuple[Manifest, int]:
    """Publish generation `to` again, by default the last one that held something else. Returns the new generation's
    manifest and the number that it repeats. Raises UsageError, SchemaChanged, CommitConflict, StoreError."""
    current = commits.current(store, partition)
    if current is None or not current.present:
        raise UsageError(f"{partition}: no such partition is published.", hint="See: tandem outputs ls")
    target = _target(store, current, to, spec.sink.keep_generations)
    _refuse_schema(store, target)
    draft = _repeated(target, current)
    hidden = [*zip(target.pending, draft.pending, strict=True)]
    if target.index is not None and draft.index is not None:
        hidden.append((target.index, draft.index))
    seen = [*zip(target.files, draft.files, strict=True), *zip(target.rejects, draft.rejects, strict=True)]
    _copy(store, hidden)
    manifest = commit_partition.commit(spec, base, store, draft, lambda: _copy(store, seen))
    generations.settle_marked(store, manifest, generations.retention_of(spec.sink), dt.datetime.now(dt.UTC))
    return manifest, target.generation


def _target(store: Store, current: Manifest, to: int | None, kept: int) -> Manifest:
    """Return the generation to repeat, all of whose files exist. Raises UsageError."""
    partition = current.partition
    if to is None:
        target = next(iter(generations.earlier(store, current, 1)), None)
        if target is None:
            raise UsageError(f"{partition} has no earlier generation.", hint=f"See: tandem partitions show {partition}")
    else:
        target = commits.read_commit(store, partition, to) if 0 < to < current.generation else None
        if target is None or not target.present:
            raise UsageError(
                f"--to {to}: {partition} has no such earlier generation; the current one is {current.generation}.",
                hint=f"See: tandem partitions show {partition}",
            )
    index = [target.index] if target.index is not None else []
    for file in (*target.files, *target.rejects, *target.pending, *index):
        if generations.locate(store, file.key) is None:
            raise UsageError(
                f"Generation {target.generation} of {partition} is gone: {file.key} was removed.",
                hint=f"sink.keep_generations = {kept} says how many earlier ones are kept.",
            )
    return target


def _refuse_schema(store: Store, target: Manifest) -> None:
    declared = load_schema(store)
    if declared is not None and target.schema_version < declared.compatible_since:
        raise SchemaChanged(
            f"Generation {target.generation} of {target.partition} has version {target.schema_version} of the schema, "
            f"and readers expect version {declared.compatible_since} or later.",
            hint=f"Undo the change of the spec, and publish every partition again: {REPUBLISH}",
        )


def _repeated(target: Manifest, current: Manifest) -> Manifest:
    """Make the next generation from the target's state. Its files get new names: a name belongs to one generation."""
    now, generation = dt.datetime.now(dt.UTC), current.generation + 1

    def renamed(files: tuple[DataFile, ...]) -> tuple[DataFile, ...]:
        return tuple(
            file.model_copy(update={"key": ids.part_file(_folder(file.key), part, generation, file.sha256)})
            for part, file in enumerate(files)
        )

    return target.model_copy(
        update={
            "kind": "published" if target.whole else "partial",
            "generation": generation,
            "parent": current.generation,
            "files": renamed(target.files),
            "rejects": renamed(target.rejects),
            "pending": renamed(target.pending),
            "index": renamed((target.index,))[0] if target.index is not None else None,
            "counts": target.counts.model_copy(update={"removed": 0}),
            "reuse": Reuse(),
            "shares": {},
            "usage": Usage(),
            "warnings": (),
            "run": f"rollback-{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}",
            "attempt": 1,
            "nonce": uuid.uuid4().hex,
            "started_at": now,
            "committed_at": now,
        }
    )


def _folder(key: str) -> str:
    return f"{key.rpartition('/')[0]}/"


def _copy(store: Store, pairs: list[tuple[DataFile, DataFile]]) -> None:
    for old, new in pairs:
        store.copy(generations.locate(store, old.key) or old.key, new.key)
