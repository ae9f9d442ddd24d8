"""Opening a partition: its published state, its rows, the journal's records of them, and its batches.

No Temporal here: `pipeline.activities.partition` calls this in threads.
"""

import datetime as dt
import hashlib
import uuid
from dataclasses import dataclass, replace

from pipeline.enrichment.attempt import PartitionRun
from pipeline.enrichment.join_rows import RowJoin
from pipeline.enrichment.selection import RowSelection, of_selected
from pipeline.enrichment.staging import StagingFolder
from pipeline.journal.answers import coverage
from pipeline.journal.join import has_journal
from pipeline.planning import unique_keys
from pipeline.planning.batches import batch_rows, equal_batches
from pipeline.planning.decide import unchanged
from pipeline.review import questions
from pipeline.sinks import commits
from pipeline.sinks.schema import column_change, load_schema
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from pipeline.stores.scratch_folder import ScratchFolder
from schemas import ids
from schemas.manifest import Counts, Reuse
from schemas.staging import OpenedPartition, PlannedBatch, Refusal, StagedFile
from stages.journal.records import AnswerRecord
from stages.journal.segments import decode_segment, encode_segment


@dataclass(frozen=True)
class Opening:
    """The opened partition and its key; None where the same is published already."""

    key: str | None
    opened: OpenedPartition | None
    base: int


def open_partition(work: PartitionRun, *, limit: int, folder: str) -> Opening:
    """Fix the base generation and the batches, of `limit` rows at most. Raises DuplicateKeys, ChecksFailed,
    InputChanged, StoreError."""
    job, plan, store, partition = work.job, work.plan, work.store, work.partition
    current = commits.current(store, partition)
    base = current.generation if current else 0
    entry = work.entry
    answered = questions.answered_rows(store, current)
    if plan.selection.reprocess != "all":
        change = column_change(load_schema(store), job.columns)
        if unchanged(current, entry.fingerprint, plan.stages, answered=answered, change=change):
            return Opening(None, None, base)
    rows = min(limit, entry.rows)
    _refuse_shared_keys(work, folder, rows)
    coverage.mark(store, partition, plan.run)
    journal = has_journal(store, partition)
    with ScratchFolder() as local:
        chosen = _choose(work, rows, folder, local)
        batches, damage = _batches(chosen, folder, local, journal=journal)
    opened = OpenedPartition(
        partition=partition,
        base=base,
        input_fingerprint=entry.fingerprint,
        rows=rows,
        whole=limit >= entry.rows,
        batches=tuple(batches),
        folder=folder,
        answers=_answers(store, partition, folder) if journal else None,
        damage=tuple(damage),
        fresh=plan.selection.fresh,
        selected=chosen.selected,
        filtered=chosen.filtered,
        started_at=dt.datetime.now(dt.UTC),
    )
    key = f"{folder}open-{uuid.uuid4().hex[:12]}.json"
    store.put_absent(key, opened.model_dump_json().encode())
    return Opening(key, opened, base)


@dataclass(frozen=True)
class _Chosen:
    """The work on the rows that are to be enriched, the staged copies of them, and what was left out; no copies where
    these are all rows."""

    work: PartitionRun
    rows: int
    selected: tuple[StagedFile, ...] = ()
    filtered: tuple[StagedFile, ...] = ()
    checked: bool = False  # no two rows have one key


def _choose(work: PartitionRun, rows: int, folder: str, local: ScratchFolder) -> _Chosen:
    """Choose the rows that batches are to have. Raises DuplicateKeys, InputChanged, StoreError."""
    selection = RowSelection.of(work.job, work.entry, rows, local, work.note)
    found = selection.select() if selection is not None else None
    if found is None:
        return _Chosen(work, rows)
    staging = StagingFolder(work.store, folder)
    selected = [staging.upload(number, "selected", *file) for number, file in enumerate(found.files)]
    filtered = [staging.upload(number, "filtered", *file) for number, file in enumerate(found.filtered)]
    job = of_selected(work.job, work.partition, selected)
    return _Chosen(replace(work, job=job), found.rows, tuple(selected), tuple(filtered), checked=True)


def _batches(
    chosen: _Chosen, folder: str, local: ScratchFolder, *, journal: bool
) -> tuple[list[PlannedBatch], list[str]]:
    """Cut the rows into batches. `journal`: the partition has one. Returns the damaged parts of it, too."""
    work, rows = chosen.work, chosen.rows
    job, entry = work.job, work.entry
    size = batch_rows(rows, job.spec.limits.batch_rows, job.snapshot.row_bytes(entry) if rows else 0)
    join = RowJoin(work, rows, local)
    if not work.plan.selection.fresh and (journal or work.others.may_have_answers()):
        join.read()
        return join.batches_with_records(size, folder, journal=journal)
    if job.spec.source.key and not chosen.checked:
        join.refuse_duplicates()
    return equal_batches(entry, size, rows), []


def _refuse_shared_keys(work: PartitionRun, folder: str, rows: int) -> None:
    """Raise ChecksFailed before anything is paid if another partition has keys of this one, too."""
    checks = unique_keys.broken(work.job, work.store, work.plan, work.partition)
    if (refused := unique_keys.refusal(work.partition, checks)) is not None:
        counts = Refusal(counts=Counts(rows_in=rows, unfinished=rows), reuse=Reuse(), checks=refused.checks)
        work.store.put(ids.refusal(folder), counts.model_dump_json().encode())
        raise refused


def _answers(store: Store, partition: str, folder: str) -> str | None:
    """Store people's answers so far in one object. Used with `--fresh` too: it asks models again, not people."""
    answers = questions.read_answers(store, partition)
    if not answers:
        return None
    data = encode_segment(answers)
    key = ids.staged(folder, 0, "answers", hashlib.sha256(data).hexdigest(), "jsonl")
    store.put_absent(key, data)
    return key


def answers_of(store: Store, opened: OpenedPartition, *, latest: bool) -> list[AnswerRecord]:
    """Return people's answers as of the opening of the partition; `latest`: as of now."""
    if latest:
        return questions.read_answers(store, opened.partition)
    if opened.answers is None:
        return []
    return [record for record in decode_segment(store.get(opened.answers)).records if isinstance(record, AnswerRecord)]


def load_opened(store: Store, key: str) -> OpenedPartition:
    return read_document(store, key, OpenedPartition)
