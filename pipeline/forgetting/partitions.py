"""A partition published anew from its own files, without some rows. Earlier generations are removed at once.

Neither the source nor a model is needed. The new generation keeps the fingerprint of the input that it was made from:
while the source is unchanged, the next run finds it up to date, and does not bring the rows back.
"""

import datetime as dt
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.forgetting.identities import Identities
from pipeline.forgetting.search import IN_PLACE, RowFile
from pipeline.forgetting.tables import ids_by_column, search_file, write_without
from pipeline.publishing import commit_partition
from pipeline.publishing.merge import time_range
from pipeline.sinks import commits, generations
from pipeline.sinks.generations import Retention
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas import digests, ids
from schemas.manifest import Counts, DataFile, Manifest, Reuse, Usage, named
from schemas.spec.sections import Spec

_AT_ONCE = Retention(dt.timedelta(0), 0)
_LATER = dt.timedelta(days=365)  # a store's clock may be ahead: what is forgotten is not kept for it


@dataclass(frozen=True)
class _Rewrite:
    """The next generation of one partition, made in a local folder."""

    store: Store
    spec: Spec
    current: Manifest
    rows: Identities
    files: dict[str, RowFile]
    folder: Path

    @property
    def generation(self) -> int:
        return self.current.generation + 1

    def without(
        self, files: Sequence[DataFile], *, keep_one: bool = False
    ) -> list[tuple[DataFile, DataFile, Path | None]]:
        """Return each file with its successor, and the local file of that if rows were removed. A file without rows is
        left out; with `keep_one`, one stays."""
        pairs: list[tuple[DataFile, DataFile, Path | None]] = []
        for file in files:
            found = self.files.get(file.key)
            path = None
            if found is not None:
                path = self.folder / f"{uuid.uuid4().hex}.parquet"
                if not write_without(self.store, file.key, found.ids_of, self.rows, path) and not (
                    keep_one and file == files[-1] and not pairs
                ):
                    path.unlink()
                    continue
            pairs.append((file, self._renamed(file, path, len(pairs)), path))
        return pairs

    def _renamed(self, file: DataFile, path: Path | None, part: int) -> DataFile:
        """Name a file of the new generation; names belong to one."""
        folder = f"{file.key.rpartition('/')[0]}/"
        if path is None:
            return file.model_copy(update={"key": ids.part_file(folder, part, self.generation, file.sha256)})
        content = digests.file_sha256(path)
        low, high = None, None
        count = pq.read_metadata(path).num_rows
        if file.time_min is not None and self.spec.partition.column is not None and count:
            low, high = time_range(path, self.spec.partition.column)
        return DataFile(
            key=ids.part_file(folder, part, self.generation, content),
            size=path.stat().st_size, sha256=content, rows=count, time_min=low, time_max=high,
        )  # fmt: skip

    def put(self, pairs: Sequence[tuple[DataFile, DataFile, Path | None]]) -> None:
        for old, new, path in pairs:
            if path is None:
                self.store.copy(old.key, new.key)
            else:
                self.store.upload(new.key, path)


def publish_without(
    spec: Spec, base: Path, store: Store, partition: str, rows: Identities, files: dict[str, RowFile]
) -> bool:
    """Remove rows from a partition: publish it anew if its current generation has them, and remove the files of earlier
    ones. `files`: those with such rows, by key. Returns True if it was published. Raises CommitConflict, StoreError."""
    current = commits.current(store, partition)
    if current is None:
        return False
    published = bool(named(current) & files.keys())
    if published:
        with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
            current = _published(base, _Rewrite(store, spec, current, rows, files, Path(folder)))
    generations.settle_marked(store, current, _AT_ONCE, dt.datetime.now(dt.UTC) + _LATER)
    # Of publications that were abandoned without a mark, which no generation names.
    ours = [file.key for file in files.values() if file.partition == partition and file.kind not in IN_PLACE]
    store.delete(sorted(set(ours) - named(current)))
    return published


def _published(base: Path, work: _Rewrite) -> Manifest:
    current, now = work.current, dt.datetime.now(dt.UTC)
    data, rejects = work.without(current.files, keep_one=True), work.without(current.rejects)
    pending = work.without(current.pending)
    index = work.without([current.index] if current.index is not None else [], keep_one=True)
    counts = _counts(work, rows_out=sum(new.rows for _, new, _ in data))
    work.put([*pending, *index])
    draft = current.model_copy(
        update={
            "kind": "published" if current.whole else "partial",
            "generation": work.generation,
            "parent": current.generation,
            "files": tuple(new for _, new, _ in data),
            "rejects": tuple(new for _, new, _ in rejects),
            "pending": tuple(new for _, new, _ in pending),
            "index": index[0][1] if index else None,
            "content_digest": digests.digest(*(new.sha256 for _, new, _ in (*data, *rejects)), str(counts.rows_in)),
            "counts": counts,
            "reuse": Reuse(),
            "shares": {},
            "answered_by": {},
            "usage": Usage(),
            "checks": tuple(check.model_copy(update={"keys": (), "others": ()}) for check in current.checks),
            "run": f"forget-{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}",
            "attempt": 1,
            "nonce": uuid.uuid4().hex,
            "started_at": now,
            "committed_at": now,
        }
    )
    return commit_partition.commit(work.spec, base, work.store, draft, partial(work.put, [*data, *rejects]))


def _counts(work: _Rewrite, rows_out: int) -> Counts:
    """Count the source rows that stay. A row with a question is pending, even if another stage rejects it; one that is
    in neither file nor in the data was filtered."""
    current, store = work.current, work.store

    def removed(files: Sequence[DataFile]) -> set[str]:
        hits = (work.files[file.key] for file in files if file.key in work.files)
        return set().union(*(search_file(store, hit.key, hit.ids_of, work.rows).ids for hit in hits))

    pending = removed(current.pending)
    rejected = removed(current.rejects) - pending
    data = removed(current.files) - pending - rejected
    everything = removed([current.index]) if current.index is not None else pending | rejected | data
    filtered = everything - pending - rejected - data
    before = current.counts
    return before.model_copy(
        update={
            "rows_in": before.rows_in - len(pending | rejected | data | filtered),
            "ok": before.ok - len(data),
            "rejected": before.rejected - len(rejected),
            "filtered": before.filtered - len(filtered),
            "pending": before.pending - len(pending),
            "removed": len(everything),
            "out": rows_out,
        }
    )


def ids_of_rows(store: Store, partition: str) -> frozenset[str] | None:
    """Return the identities of the source rows of a partition's current generation, whatever became of them; None if
    they are not known: it was never published."""
    current = commits.current(store, partition)
    if current is None or (current.index is None and current.counts.rows_in):
        return None
    if current.index is None:
        return frozenset()
    with store.open_input(current.index.key) as source:
        return frozenset(ids_by_column(table_of(source, columns=["row_id"])))
