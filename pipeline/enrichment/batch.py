"""One batch from its rows to its staged files: the rows pass through the stages, every source row is accounted for.

    read rows → stage, stage, … → data, rejects and index as staged Parquet → a receipt that names them

A receipt is named by its own digest. `publish` takes only reported receipts, and files whose SHA-256 agrees.
"""

import asyncio
from dataclasses import dataclass, field

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.batch_table import BatchTable
from pipeline.enrichment.parked import write_parked
from schemas.errors import TandemError
from schemas.manifest import Counts
from schemas.messages.batch import RowsOfBatch
from schemas.messages.jobs import ParkedCalls
from stages.contract import GraphStage
from stages.execution.attempt import BatchContext
from stages.execution.batch import run_graph_stage


@dataclass
class Enriched:
    """A finished batch's receipt digest, the rows that have to be run by themselves, the calls of rows that wait for
    provider jobs, or the error that stopped it."""

    receipt: str = ""
    counts: Counts = field(default_factory=Counts)
    parked: int = 0
    by_row: RowsOfBatch | None = None
    stopped: TandemError | None = None
    drained: bool = False
    parked_calls: ParkedCalls = field(default_factory=ParkedCalls)


async def enrich_batch(attempt: BatchAttempt, context: BatchContext) -> Enriched:
    """Run the stages over one batch. The journal is flushed on success and on failure."""
    job = attempt.job
    rows = await asyncio.to_thread(job.snapshot.read, attempt.partition, attempt.batch.ranges)
    work = BatchTable(attempt, rows)
    try:
        for stage in job.stages[: job.barrier]:
            if isinstance(stage, GraphStage):
                if stage.spec.placement == "node":
                    left = await asyncio.to_thread(work.left_to_run, stage, context.journal.known)
                    if left is not None:
                        return Enriched(by_row=left)
                outcome = await run_graph_stage(stage, work.table.frame, work.current_ids(), context)
                if not outcome.finished:
                    stopped = Enriched(stopped=outcome.stopped, drained=outcome.drained)
                    calls = context.parking.calls if context.parking is not None else []
                    if calls and outcome.stopped is None and not outcome.drained:
                        stopped.parked_calls = await asyncio.to_thread(write_parked, attempt, calls)
                    return stopped
                await asyncio.to_thread(work.take, stage, outcome.done)
                work.share(stage, outcome.done, context.journal.known.calls)
            else:
                await asyncio.to_thread(work.apply, stage)
    finally:
        await context.journal.close()
    if context.observer is not None:
        context.observer.rows_ended(work.outcomes())
    receipt = await asyncio.to_thread(work.stage_files, context.tally.calls_reused)
    receipt = receipt.model_copy(update={"damage": tuple(context.damage)})
    content = await asyncio.to_thread(attempt.staging.write_receipt, receipt)
    return Enriched(receipt=content, counts=receipt.counts, parked=receipt.parked)
