"""The journal of one attempt: what a batch, or one row, may use of earlier ones, and where it writes its own."""

import asyncio
import itertools
import uuid
from collections.abc import Iterable

import polars as pl

from pipeline.enrichment.row_step import _row
from pipeline.journal import segments
from pipeline.journal.spool import Spools
from pipeline.planning.job import Job
from pipeline.stores import Store
from schemas import ids
from schemas.messages.batch import RowInput
from schemas.staging import PlannedBatch
from stages.contract import GraphStage
from stages.execution.batch import BatchContext
from stages.execution.node_steps import Steps
from stages.execution.single_flight import Shared
from stages.journal.fingerprints import fingerprints
from stages.journal.known import Known
from stages.journal.records import AnswerRecord, Record
from stages.journal.segments import decode_segment, encode_segment
from stages.journal.writer import Journal


async def batch_context(
    job: Job,
    store: Store,
    run: str,
    partition: str,
    number: int,
    batch: PlannedBatch,
    shared: Shared,
    drain: asyncio.Event,
    spools: Spools | None = None,
    answers: Iterable[AnswerRecord] = (),
) -> BatchContext:
    """A journal for this attempt: what `open` found for the batch, what people answered, and what its earlier attempts
    left, in the store and in the spools of those that were killed on this machine."""
    known = Known(answers)
    if batch.known is not None:
        for record in decode_segment(await asyncio.to_thread(store.get, batch.known)).records:
            known.add(record)
    damage: list[str] = []
    for record in await asyncio.to_thread(segments.load_batch, store, partition, run, number, damage):
        known.add(record)
    options = job.spec.journal
    put = segments.segment_writer(store, partition, run, number)
    spool = None
    if spools is not None:
        attempt = store.uri, run, partition, number
        for path, records in await asyncio.to_thread(spools.left_by_the_dead, *attempt):
            if records:
                await put(encode_segment(records))
            for record in records:
                known.add(record)
            await asyncio.to_thread(path.unlink, missing_ok=True)
        spool = spools.open(*attempt)
    journal = Journal(put, known=known, flush_s=options.flush.total_seconds(), strict=options.strict, spool=spool)
    return BatchContext(run=run, batch=number, journal=journal, shared=shared, drain=drain, damage=damage)


async def row_context(
    job: Job, store: Store, asked: RowInput, batch: PlannedBatch, answers: Iterable[AnswerRecord], drain: asyncio.Event
) -> tuple[GraphStage, pl.DataFrame, BatchContext]:
    """The row, its stage, and a journal of its own among those of its batch. Each record is stored before the next
    step: what a node or a model took minutes for is worth a write."""
    stage = next(s for s in job.stages if s.name == asked.stage and isinstance(s, GraphStage))
    assert isinstance(stage, GraphStage)
    row = await asyncio.to_thread(_row, store, asked)
    (fingerprint,) = fingerprints(row, stage.reads)
    known = Known(answers)
    if batch.known is not None:
        for record in decode_segment(await asyncio.to_thread(store.get, batch.known)).records:
            known.add(record)
    for record in await asyncio.to_thread(_earlier, store, asked, fingerprint):
        known.add(record)

    async def put(data: bytes) -> None:
        key = ids.journal_row(asked.partition, asked.ref.run, asked.batch, fingerprint, uuid.uuid4().hex)
        await asyncio.to_thread(store.put_absent, key, data)

    journal = Journal(put, known=known, strict=True)
    context = BatchContext(run=asked.ref.run, batch=asked.batch, journal=journal, shared=Shared(), drain=drain)
    context.steps = Steps((stage.fingerprint, fingerprint), asked.id, asked.ref.run, journal)
    return stage, row, context


def _earlier(store: Store, asked: RowInput, fingerprint: str) -> list[Record]:
    folder = ids.journal_row(asked.partition, asked.ref.run, asked.batch, fingerprint)
    keys = [info.key for info in store.list(folder)]
    return list(itertools.chain.from_iterable(segments.read_segments(store, keys, segments.Reading())))
