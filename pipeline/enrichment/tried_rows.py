"""The first rows of a pipeline, tried: each stage's result for each row, and what it cost."""

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.context import batch_context
from pipeline.enrichment.trial import Trial
from pipeline.journal import join
from pipeline.journal.known_file import records_of
from pipeline.planning.job import Ready, source_stages
from schemas.errors import SourceError, UsageError
from schemas.staging import PlannedBatch
from schemas.tier import Tier
from stages.contract import graph_stages
from stages.execution.attempt import BatchContext
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.guards.isolation import RowWatch
from stages.execution.row_prints import row_prints
from stages.journal.fingerprints import row_ids
from stages.journal.records import Record, now
from stages.mcp_servers.sessions import close_servers
from stages.models.callbacks import flush_tracers
from stages.models.wires.http import close_session

RUN = "try"
_USAGE = {"calls": 0, "calls_reused": 0, "input_tokens": 0, "output_tokens": 0}


@dataclass(frozen=True)
class Tried:
    """What to try: the first `rows` rows, of one partition or of as many as needed, up to one stage or through all;
    at the price `tier`, or at those of the spec."""

    rows: int
    stage: str | None = None
    partition: str | None = None
    tier: Tier | None = None


async def try_rows(ready: Ready, tried: Tried, watch: RowWatch | None = None) -> dict[str, Any]:
    """Return `{"parts": [{"partition", "rows", "tables"}], "usage": {…}}`. Raises UsageError, and errors that stop a
    run."""
    refuse_unknown_stage(ready, tried.stage)
    parts = await asyncio.to_thread(_rows, ready, tried)
    shown: list[dict[str, Any]] = []
    spent, cost = Counter[str](), 0.0
    try:
        for partition, rows in parts:
            context = await _context(ready, partition, rows)
            context.watch = watch
            began, trial = now(), Trial(ready.job, rows, context)
            try:
                results = await trial.through(tried.stage)
            finally:
                await context.journal.close()
            shown.append({"partition": partition, "rows": results, "tables": trial.tables})
            spent.update({"calls": context.tally.calls, "calls_reused": context.tally.calls_reused})
            spent.update(_tokens(context, began))
            cost += context.tally.cost_usd
    finally:
        await flush_tracers()
        await close_servers()
        await close_session()
    return {"parts": shown, "usage": {**_USAGE, **spent, "cost_usd": round(cost, 6)}}


def diagrams(ready: Ready, only: str | None) -> dict[str, str]:
    """Return the graph of each stage, or of one, as Mermaid."""
    refuse_unknown_stage(ready, only)
    return {
        stage.name: stage.graph.get_graph().draw_mermaid()
        for stage in graph_stages(ready.job.stages)
        if only in (None, stage.name)
    }


def refuse_unknown_stage(ready: Ready, name: str | None) -> None:
    names = [stage.name for stage in ready.job.stages]
    if name is not None and name not in names:
        raise UsageError(f"--stage {name}: no such stage.", hint=f"Stages: {', '.join(names)}")


def _tokens(context: BatchContext, began: float) -> dict[str, int]:
    """Return the tokens of the answers that this trial paid for."""
    paid = [call.usage for call in context.journal.known.calls.values() if call.at >= began]
    return {f"{side}_tokens": sum(usage.get(side, 0) for usage in paid) for side in ("input", "output")}


async def _context(ready: Ready, partition: str, rows: pl.DataFrame) -> BatchContext:
    """Return a context whose journal has the answers that runs of this partition have paid for."""
    batch = PlannedBatch(rows=rows.height, ranges=())
    attempt = BatchAttempt(ready.job, ready.store, RUN, partition, 0, batch)
    context = await batch_context(attempt, Shared(), asyncio.Event())
    for record in await asyncio.to_thread(_known, ready, partition, rows):
        context.journal.known.add(record)
    return context


def _known(ready: Ready, partition: str, rows: pl.DataFrame) -> list[Record]:
    keys = row_ids(rows, ready.job.spec.source.key)
    for stage in source_stages(ready.job):
        keys += row_prints(stage, rows, keys[: rows.height])
    with tempfile.TemporaryDirectory(prefix="tandem-") as local:
        files, _ = join.split_by_batch(ready.store, partition, join.keys_of_batch(0, keys), Path(local))
        return [record for path in files.values() for record in records_of(path.read_bytes())]


def _rows(ready: Ready, tried: Tried) -> list[tuple[str, pl.DataFrame]]:
    """Return the first rows, from as many partitions as needed."""
    snapshot = ready.job.snapshot
    known = snapshot.partitions
    if tried.partition is not None and tried.partition not in known:
        hint = f"For example {', '.join(known[:3])}" if known else ""
        raise UsageError(f"--partition {tried.partition}: no such partition.", hint=hint)
    parts: list[tuple[str, pl.DataFrame]] = []
    remaining = tried.rows
    for partition in [tried.partition] if tried.partition is not None else known:
        ranges = []
        for found in snapshot.entry(partition).ranges:
            ranges.append(found.model_copy(update={"rows": min(found.rows, remaining)}))
            remaining -= ranges[-1].rows
        if any(found.rows for found in ranges):
            parts.append((partition, snapshot.read(partition, ranges)))
        if not remaining:
            break
    if not parts:
        raise SourceError("There are no rows to try.")
    return parts
