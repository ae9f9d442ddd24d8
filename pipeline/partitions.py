"""Opening a partition: what is published, what its rows are, what the journal knows of them, and its batches.

No Temporal here: `pipeline.activities` calls this in threads.
"""

import datetime as dt
import hashlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from pipeline import commit as commits
from pipeline import planning, questions
from pipeline.dealing import Gathered, gather, hashed, wanted_by
from pipeline.plans import Job, unchanged
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from schemas import ids
from schemas.errors import DuplicateKeys
from schemas.plan import Plan
from schemas.staging import OpenedPartition, PlannedBatch, RowRange
from stages.contract import GraphStage
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.records import AnswerRecord
from stages.journal.segments import decode_segment, encode_segment

Note = Callable[[int], None]


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
    answered = questions.answered_rows(store, current)
    if not rerun and unchanged(current, entry.fingerprint, plan.stages, answered=answered):
        return Opening(None, None, base)
    taken = min(limit, entry.rows)
    size = planning.batch_rows(taken, job.spec.limits.batch_rows)
    journal = has_journal(store, partition)
    knows = journal and not plan.selection.fresh
    batches, damage = dealt_batches(entry, size, taken), list[str]()
    join = _Join(job, store, entry, taken, note)
    if knows:
        with tempfile.TemporaryDirectory(prefix="tandem-") as local:
            join.read()
            batches, damage = join.dealt(size, folder, Path(local))
    elif job.spec.source.key:
        join.refuse_duplicates()
    opened = OpenedPartition(
        partition=partition,
        base=base,
        input_fingerprint=entry.fingerprint,
        rows=sum(batch.rows for batch in batches),
        whole=limit >= entry.rows,
        batches=tuple(batches),
        folder=folder,
        answers=_answers(store, partition, folder) if journal else None,
        damage=tuple(damage),
        started_at=dt.datetime.now(dt.UTC),
    )
    key = f"{folder}open-{uuid.uuid4().hex[:12]}.json"
    store.put_absent(key, opened.model_dump_json().encode())
    return Opening(key, opened, base)


def _answers(store: Store, partition: str, folder: str) -> str | None:
    """What people answered so far, in one object. It holds for `--fresh` too: it asks models again, not people."""
    said = questions.given(store, partition)
    if not said:
        return None
    data = encode_segment(said)
    key = ids.staged(folder, 0, "answers", hashlib.sha256(data).hexdigest(), "jsonl")
    store.put_absent(key, data)
    return key


def answers_of(store: Store, opened: OpenedPartition, *, anew: bool) -> list[AnswerRecord]:
    """What people had answered when the partition was opened; `anew`: by now."""
    if anew:
        return questions.given(store, opened.partition)
    if opened.answers is None:
        return []
    return [said for said in decode_segment(store.get(opened.answers)).records if isinstance(said, AnswerRecord)]


def load_opened(store: Store, key: str) -> OpenedPartition:
    return OpenedPartition.model_validate_json(store.get(key))


def dealt_batches(entry: Entry, size: int, limit: int) -> list[PlannedBatch]:
    """Batches of `size` rows over the first `limit` rows of a partition."""
    return _batches(entry, [min(size, limit - at) for at in range(0, limit, size)])


def _batches(entry: Entry, sizes: Sequence[int]) -> list[PlannedBatch]:
    out = []
    for dealt in planning.deal([found.rows for found in entry.ranges], sizes):
        ranges = tuple(
            RowRange(file=entry.ranges[number].file, start=entry.ranges[number].start + at, rows=rows)
            for number, at, rows in dealt
        )
        out.append(PlannedBatch(rows=sum(r.rows for r in ranges), ranges=ranges))
    return out


def has_journal(store: Store, partition: str) -> bool:
    return next(iter(store.list(ids.journal_folder(partition))), None) is not None


def source_stages(job: Job) -> list[GraphStage]:
    """The graph stages that read the source's columns: what they know of a row can be told before it is run."""
    names = set(job.snapshot.schema.names)
    return [stage for stage in job.stages if isinstance(stage, GraphStage) and set(stage.reads) <= names]


def wanted_of(job: Job, rows: pl.DataFrame, batch: int) -> pl.DataFrame:
    """What the journal is joined by for a batch: its rows' identities, and their fingerprints for the stages that read
    the source's columns."""
    keys = row_ids(rows, job.spec.source.key)
    for stage in source_stages(job):
        keys = [*keys, *fingerprints(rows, stage.reads)]
    return wanted_by(batch, keys)


class _Join:
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
        for batch in dealt_batches(self._entry, planning.MOST_BATCH_ROWS, self._rows):
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
        gathered = gather(self._store, self._entry.partition, pl.concat(keys), local)
        answered = self._answered(gathered, keys[1:])
        sizes = self._sizes(answered, size)
        batches = _batches(self._entry, sizes)
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

    def _answered(self, gathered: Gathered, prints: Sequence[pl.Series]) -> pl.Series:
        """Which rows need no call. Of a stage that reads other stages' columns nothing can be told here."""
        sure = len(self._stages) == sum(isinstance(stage, GraphStage) for stage in self._job.stages)
        answered = pl.repeat(sure, len(self._keys[0]), dtype=pl.Boolean, eager=True)
        for stage, column in zip(self._stages, prints, strict=True):
            answered &= gathered.answered(stage.fingerprint, column)
        return answered

    def _sizes(self, answered: pl.Series, size: int) -> list[int]:
        if self._job.spec.limits.batch_rows is not None:
            return [min(size, self._rows - at) for at in range(0, self._rows, size)]
        return planning.cut((~answered).to_list(), size, max(size, planning.MOST_BATCH_ROWS))
