"""A batch whose rows are all answered in the partition's own journal: from its rows to its staged files as columns.

    read rows → for each stage: fingerprints joined with the journal's records, their answers as columns → a receipt

All or nothing: a batch with a row that has no outcome yet, or one that `stages.execution.answered_rows` does not
understand, goes through `pipeline.enrichment.batch`, row by row. Both ways leave the same receipt and the same records.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.batch import Enriched
from pipeline.enrichment.batch_table import BatchTable
from pipeline.enrichment.row_digests import BatchDigests, sees_source
from pipeline.enrichment.staging import known_bytes
from pipeline.journal.announcements import Announcements
from pipeline.journal.known_file import columns_of
from pipeline.journal.segments import SegmentWriter
from pipeline.journal.spool import Spools
from schemas import ids
from stages import observer
from stages.contract import ROW, GraphStage
from stages.execution.answered_rows import KnownOutcomes
from stages.execution.row_prints import row_prints
from stages.journal.records import RowRecord
from stages.journal.segments import encode_segment
from stages.observer import BatchObserver


@dataclass(frozen=True)
class Listeners:
    """Those who hear of finished rows: a heartbeat, other commands, the traces of a run."""

    on_row: Callable[[int], None] = lambda rows: None
    announced: Announcements | None = None
    observer: BatchObserver | None = None


async def reuse_answers(attempt: BatchAttempt, spools: Spools | None, listeners: Listeners) -> Enriched | None:
    """Stage a batch from known answers alone; None if it has to be run. Raises StoreError, SourceError."""
    found = await asyncio.to_thread(_joined, attempt, spools)
    if found is None:
        return None
    if found.to_carry:
        writer = SegmentWriter(attempt.store, attempt.partition, attempt.run, attempt.number)
        await writer.put(encode_segment(found.to_carry))
        if listeners.announced is not None:
            listeners.announced.note(writer.last, found.to_carry)
    for stage, rows in found.answered:
        listeners.on_row(rows)
        if (seen := observer.current) is not None:
            seen.rows_done(stage, rows)
    if listeners.observer is not None:
        listeners.observer.rows_ended(found.work.outcomes())
    receipt = await asyncio.to_thread(found.work.stage_files, 0)
    content = await asyncio.to_thread(attempt.staging.write_receipt, receipt)
    return Enriched(receipt=content, counts=receipt.counts)


@dataclass(frozen=True)
class _Joined:
    """A batch behind its last stage, the rows that were answered in each stage, and outcomes to copy as their own."""

    work: BatchTable
    answered: list[tuple[str, int]]
    to_carry: list[RowRecord]


def _joined(attempt: BatchAttempt, spools: Spools | None) -> _Joined | None:
    job = attempt.job
    outcomes = _outcomes(attempt) if job.spec.sink.provenance == "none" else None
    if outcomes is None or _was_begun(attempt, spools):
        return None
    digests = _digests(attempt)
    work = BatchTable(attempt, job.snapshot.read(attempt.partition, attempt.batch.ranges), digests)
    joined = _Joined(work, [], [])
    for number, stage in enumerate(job.stages[: job.barrier]):
        if not isinstance(stage, GraphStage):
            work.apply(stage)
            continue
        ids, frame = work.current_ids(), work.table.frame
        known = digests.texts(stage.fingerprint) if sees_source(stage, job.stages[:number]) else None
        if known is None:
            prints = pl.Series(row_prints(stage, frame, ids), dtype=pl.String)
        else:
            prints = known.gather(frame[ROW])
        found = outcomes.of_rows(stage, prints, pl.Series(ids, dtype=pl.String))
        if found is None:
            return None
        if found.any_by_model:
            stage.refused_rows.record_answer()
        joined.answered.append((stage.name, len(found)))
        joined.to_carry.extend(found.to_carry())
        work.take_columns(found)
    return joined


def _was_begun(attempt: BatchAttempt, spools: Spools | None) -> bool:
    """True if an earlier attempt of this run has left records: they are its own, and no reuse."""
    store, run, partition, number = attempt.store, attempt.run, attempt.partition, attempt.number
    if any(True for _ in store.list(ids.journal_batch(partition, run, number))):
        return True
    return spools is not None and bool(spools.left_by_the_dead(store.uri, run, partition, number))


def _outcomes(attempt: BatchAttempt) -> KnownOutcomes | None:
    """Return what the partition's journal has of the batch's rows; None if other journals have more, if it has nothing,
    or if it is unclear."""
    batch = attempt.batch
    if batch.known is None or batch.elsewhere is not None:
        return None
    try:
        known = columns_of(known_bytes(attempt.store, batch.known))
        return None if known is None else KnownOutcomes.of(known, attempt.run)
    except (pl.exceptions.PolarsError, pa.ArrowException):
        return None


def _digests(attempt: BatchAttempt) -> BatchDigests:
    key = attempt.batch.digests
    return BatchDigests({}) if key is None else BatchDigests.of(known_bytes(attempt.store, key))
