"""The steps around the one conditional put: marks before it, tables and hints after it, cleanup after a lost race.

mark → is the generation still free? → upload → commit → the table follows → _SUCCESS
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import orjson

from pipeline.sinks import commits, generations
from pipeline.sinks.table_formats import follow
from pipeline.stores import Store
from schemas import ids
from schemas.errors import Cancelled, CommitConflict
from schemas.manifest import Manifest, named
from schemas.spec.sections import Spec


def commit(spec: Spec, base: Path, store: Store, draft: Manifest, upload: Callable[[], object]) -> Manifest:
    """Make the draft the partition's current generation. `upload` puts its files where readers by glob see them, and is
    called only while that generation is free. Raises CommitConflict, Cancelled, StoreError."""
    generations.mark(store, draft.partition, draft.generation, draft.run, generations.retention_of(spec.sink))
    lake = follow.lake_of(spec, base, store)
    with contextlib.closing(lake) if lake is not None else contextlib.nullcontext():
        try:
            current = commits.adoptable(store, draft)
            if current is None:
                if lake is not None:
                    follow.mark(store, draft.partition)
                upload()
                current = commits.commit(store, draft).manifest
        except (CommitConflict, Cancelled):
            _remove_own(store, draft)
            raise
        if lake is not None:
            follow.follow(lake, store, draft.partition)
    _write_success(store, current)
    return current


def _remove_own(store: Store, draft: Manifest) -> None:
    """Remove the uploaded files after a lost race, except those that the winner names too: no other generation can name
    them. If the outcome is unknown they stay, and are found by their mark."""
    winner = commits.read_commit(store, draft.partition, draft.generation)
    store.delete(sorted(named(draft) - named(winner)))


def _write_success(store: Store, manifest: Manifest) -> None:
    """Write `_SUCCESS`, a hint for tools that look for it; the commit is the truth. A retired partition has none."""
    if manifest.kind == "retired":
        store.delete([ids.success(manifest.partition)])
        return
    content = {"generation": manifest.generation, "run": manifest.run, "counts": manifest.counts.model_dump()}
    store.put(ids.success(manifest.partition), orjson.dumps(content))
