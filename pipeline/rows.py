"""One row of a stage whose nodes are activities, one step of its graph at a time (design: placement)."""

import asyncio
import itertools
import uuid
from collections.abc import Iterable

import polars as pl

from pipeline import journals
from pipeline.parquet import table_of
from pipeline.plans import Job
from pipeline.stores import Store
from schemas import ids
from schemas.errors import PartitionError
from schemas.messages.batch import RowInput
from schemas.staging import PlannedBatch
from stages.contract import GraphStage
from stages.execution.batch import ID, BatchContext, StageOutcome, run_graph_stage
from stages.execution.node_steps import Steps
from stages.execution.single_flight import Shared
from stages.journal.fingerprints import fingerprints
from stages.journal.known import Known
from stages.journal.records import AnswerRecord, Record
from stages.journal.segments import decode_segment
from stages.journal.writer import Journal


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


async def step(stage: GraphStage, row: pl.DataFrame, context: BatchContext) -> StageOutcome:
    """One step of the row's graph; its outcome, where that was the last."""
    try:
        return await run_graph_stage(stage, row.drop(ID), row[ID].to_list(), context)
    finally:
        await context.journal.close()


def _row(store: Store, asked: RowInput) -> pl.DataFrame:
    rows = pl.DataFrame(table_of(store.get(asked.rows)))
    row = rows.slice(asked.row, 1)
    if row[ID].to_list() != [asked.id]:
        raise PartitionError(f"row {asked.row} of {asked.rows} is not the one that was asked for: a bug of Tandem's.")
    return row


def _earlier(store: Store, asked: RowInput, fingerprint: str) -> list[Record]:
    folder = ids.journal_row(asked.partition, asked.ref.run, asked.batch, fingerprint)
    keys = [info.key for info in store.list(folder)]
    return list(itertools.chain.from_iterable(journals.read_segments(store, keys, journals.Reading())))
