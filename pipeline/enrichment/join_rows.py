"""A partition's rows against its journal: keys must be unique, and what is answered needs no call."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.journal.join import JournalJoin, collect, hashed, keys_of_batch
from pipeline.note import Note
from pipeline.planning.batches import MOST_BATCH_ROWS, batches_over, cut, dealt_batches
from pipeline.planning.job import Job, source_stages
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from schemas import ids
from schemas.errors import DuplicateKeys
from schemas.staging import PlannedBatch
from stages.contract import graph_stages
from stages.journal.fingerprints import fingerprints, row_ids


def wanted_of(job: Job, rows: pl.DataFrame, batch: int) -> pl.DataFrame:
    """What the journal is joined by for a batch: its rows' identities, and their fingerprints for the stages that read
    the source's columns."""
    keys = row_ids(rows, job.spec.source.key)
    for stage in source_stages(job):
        keys = [*keys, *fingerprints(rows, stage.reads)]
    return keys_of_batch(batch, keys)


class RowJoin:
    """A partition's rows against its journal. They are read once, some at a time: keys must be unique, and what is
    answered already is dealt in larger batches, without the calls that led to it."""

    def __init__(self, job: Job, store: Store, entry: Entry, rows: int, note: Note) -> None:
        self._job = job
        self._store = store
        self._entry = entry
        self._rows = rows
        self._note = note
        self._stages = source_stages(job)
        self._keys: list[pl.Series] = []

    def refuse_duplicates(self) -> None:
        """Read the rows' identities alone. Raises DuplicateKeys, InputChanged."""
        self._refuse_twice(self._columns([self._identities])[0])

    def read(self) -> None:
        """Raises DuplicateKeys, InputChanged."""
        prints = [partial(fingerprints, columns=stage.reads) for stage in self._stages]
        self._keys = self._columns([self._identities, *prints])
        if self._job.spec.source.key:
            self._refuse_twice(self._keys[0])

    def _identities(self, rows: pl.DataFrame) -> list[str]:
        return row_ids(rows, self._job.spec.source.key)

    def _frames(self) -> Iterator[pl.DataFrame]:
        for batch in dealt_batches(self._entry, MOST_BATCH_ROWS, self._rows):
            yield self._job.snapshot.read(self._entry.partition, batch.ranges)

    def _columns(self, made: Sequence[Callable[[pl.DataFrame], list[str]]]) -> list[pl.Series]:
        """Hashes of what is made of each row."""
        parts = [[hashed([])] for _ in made]
        for rows in self._frames():
            for column, make in zip(parts, made, strict=True):
                column.append(hashed(make(rows)))
            self._note(rows.height)
        return [pl.concat(column) for column in parts]

    def _refuse_twice(self, identities: pl.Series) -> None:
        """Raises DuplicateKeys where two that share a hash are the same."""
        doubtful = set(identities.filter(identities.is_duplicated()).to_list())
        seen: set[str] = set()
        for rows in self._frames() if doubtful else ():
            found = self._identities(rows)
            for at, (identity, key) in enumerate(zip(found, hashed(found), strict=True)):
                if key not in doubtful:
                    continue
                if identity in seen:
                    shown = ", ".join(f"{name}={rows[name][at]!r}" for name in self._job.spec.source.key)
                    raise DuplicateKeys(
                        f"{self._entry.partition}: two rows have the key {shown}.",
                        hint="Mend the source, name more columns in source.key, or leave source.key out.",
                    )
                seen.add(identity)

    def dealt(self, size: int, folder: str, local: Path) -> tuple[list[PlannedBatch], list[str]]:
        """Batches, each with the object of what is known of its rows, and what of the journal cannot be read."""
        keys = self._keys
        gathered = collect(self._store, self._entry.partition, pl.concat(keys), local)
        answered = self._answered(gathered, keys[1:])
        sizes = self._sizes(answered, size)
        batches = batches_over(self._entry, sizes)
        batch = pl.Series("batch", [at for at, rows in enumerate(sizes) for _ in range(rows)], dtype=pl.Int64)
        wanted = pl.concat(pl.DataFrame([batch, key, (~answered).alias("calls")]) for key in keys)
        for number, path in gathered.deal(wanted, local).items():
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            target = ids.staged(folder, number, "known", content, "jsonl")
            self._store.upload(target, path)
            batches[number] = batches[number].model_copy(update={"known": target})
            self._note(0)
        return batches, gathered.damage

    def _answered(self, gathered: JournalJoin, prints: Sequence[pl.Series]) -> pl.Series:
        """Which rows need no call. Of a stage that reads other stages' columns nothing can be told here."""
        sure = len(self._stages) == len(graph_stages(self._job.stages))
        answered = pl.repeat(sure, len(self._keys[0]), dtype=pl.Boolean, eager=True)
        for stage, column in zip(self._stages, prints, strict=True):
            answered &= gathered.answered(stage.fingerprint, column)
        return answered

    def _sizes(self, answered: pl.Series, size: int) -> list[int]:
        if self._job.spec.limits.batch_rows is not None:
            return [min(size, self._rows - at) for at in range(0, self._rows, size)]
        return cut((~answered).to_list(), size, max(size, MOST_BATCH_ROWS))
