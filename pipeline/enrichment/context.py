"""The journal of one attempt: the earlier records that a batch or a row may use, and the writer of its own."""

import asyncio
import itertools
import uuid
from collections.abc import Iterable
from dataclasses import replace

import polars as pl

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.row_step import _row
from pipeline.enrichment.staging import known_bytes
from pipeline.journal import segments
from pipeline.journal.announcements import Announcements
from pipeline.journal.answers.calls import CallFinder
from pipeline.journal.compacted import earlier_records
from pipeline.journal.known_file import records_of
from pipeline.journal.segments import SegmentWriter
from pipeline.journal.spool import Spools
from pipeline.planning.known_answers import other_journals
from schemas import ids
from schemas.messages.batch import RowInput
from stages.contract import GraphStage, graph_stages
from stages.execution.attempt import BatchContext, Steps
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.row_prints import row_prints
from stages.execution.unsettled import is_shareable
from stages.journal.known import Known
from stages.journal.records import AnswerRecord, Record, RowRecord
from stages.journal.segments import encode_segment
from stages.journal.writer import Journal
from stages.limits.semaphore import Place


async def batch_context(
    attempt: BatchAttempt,
    shared: Shared,
    drain: asyncio.Event,
    spools: Spools | None = None,
    answers: Iterable[AnswerRecord] = (),
    announced: Announcements | None = None,
) -> BatchContext:
    """Make the journal of this attempt from the records that `open` found for the batch, people's answers, and the
    records of earlier attempts, in the store and in the spools of processes that were killed on this machine. Its rows
    are `announced` to other commands."""
    store, run, number = attempt.store, attempt.run, attempt.number
    known = await _opened_with(attempt, answers)
    found = await asyncio.to_thread(_elsewhere, attempt)
    own = dict(known.rows)
    for record in found:
        known.add(record)
    elsewhere = {key for key, record in known.rows.items() if record is not own.get(key)}
    damage: list[str] = []
    earlier = await asyncio.to_thread(earlier_records, store, attempt.partition, run, number, attempt.base, damage)
    for record in earlier:
        known.add(record)
    options = attempt.job.spec.journal
    writer = SegmentWriter(store, attempt.partition, run, number)
    spool = None
    if spools is not None:
        owner = store.uri, run, attempt.partition, number
        for path, records in await asyncio.to_thread(spools.left_by_the_dead, *owner):
            if records:
                await writer.put(encode_segment(records))
            for record in records:
                known.add(record)
            await asyncio.to_thread(path.unlink, missing_ok=True)
        spool = spools.open(*owner)
    journal = Journal(
        writer.put,
        known=known,
        flush_s=options.flush.total_seconds(),
        strict=options.strict,
        spool=spool,
        requests=options.requests == "keep",
        finder=await asyncio.to_thread(_finder, attempt),
        on_stored=None if announced is None else lambda rows: announced.note(writer.last, rows),
    )
    return BatchContext(
        run=run,
        batch=number,
        journal=journal,
        shared=shared,
        drain=drain,
        damage=damage,
        elsewhere=frozenset(elsewhere),
        announced=announced,
        place=_place(attempt),
    )


def _place(attempt: BatchAttempt) -> Place:
    """Return where rows of a batch wait: those of the partition that was opened first go first, batch by batch. So
    partitions are published one after another, and few batches write their journals at a time. Runs take turns."""
    return Place(f"{attempt.store.uri} {attempt.run}", (attempt.opened_at, attempt.number))


async def row_context(
    attempt: BatchAttempt, request: RowInput, answers: Iterable[AnswerRecord], drain: asyncio.Event
) -> tuple[GraphStage, pl.DataFrame, BatchContext]:
    """Load the row and its stage, and make its own journal. Each record is stored before the next step: the result of
    minutes of work is worth a write."""
    store, run = attempt.store, attempt.run
    stage = next(stage for stage in graph_stages(attempt.job.stages) if stage.name == request.stage)
    row = await asyncio.to_thread(_row, store, request)
    (fingerprint,) = row_prints(stage, row, [request.id])
    known = await _opened_with(attempt, answers)
    for record in await asyncio.to_thread(_elsewhere, attempt):
        known.add(record)
    for record in await asyncio.to_thread(_earlier, attempt, fingerprint):
        known.add(record)

    async def put(data: bytes) -> None:
        key = ids.journal_row(attempt.partition, run, attempt.number, fingerprint, uuid.uuid4().hex)
        await asyncio.to_thread(store.put_absent, key, data)

    journal = Journal(
        put,
        known=known,
        strict=True,
        requests=attempt.job.spec.journal.requests == "keep",
        finder=await asyncio.to_thread(_finder, attempt),
    )
    context = BatchContext(
        run=run, batch=attempt.number, journal=journal, shared=Shared(), drain=drain, place=_place(attempt)
    )
    context.steps = Steps((stage.fingerprint, fingerprint), request.id, run, journal)
    return stage, row, context


async def _opened_with(attempt: BatchAttempt, answers: Iterable[AnswerRecord]) -> Known:
    """Load people's answers, and the records that `open` found in the partition's journal for the batch."""
    known = Known(answers)
    if attempt.batch.known is not None:
        for record in records_of(await asyncio.to_thread(known_bytes, attempt.store, attempt.batch.known)):
            known.add(record)
    return known


def _finder(attempt: BatchAttempt) -> CallFinder | None:
    """Return what finds single calls in all journals; none where answers are to be new."""
    return None if attempt.fresh else CallFinder.of(other_journals(attempt.job, attempt.store))


def _elsewhere(attempt: BatchAttempt) -> list[Record]:
    """Load the records that `open` found in other journals for the batch."""
    if attempt.batch.elsewhere is None:
        return []
    records = records_of(known_bytes(attempt.store, attempt.batch.elsewhere))
    return [_shared(record, attempt.run) for record in records if is_shareable(record)]


def _shared(record: Record, run: str) -> Record:
    """An answer that this run paid for in another partition is one of an equal row."""
    return replace(record, shared=True) if isinstance(record, RowRecord) and record.run == run else record


def _earlier(attempt: BatchAttempt, fingerprint: str) -> list[Record]:
    """Load the records of earlier steps of a row."""
    folder = ids.journal_row(attempt.partition, attempt.run, attempt.number, fingerprint)
    keys = [info.key for info in attempt.store.list(folder)]
    return list(itertools.chain.from_iterable(segments.read_segments(attempt.store, keys, segments.Reading())))
