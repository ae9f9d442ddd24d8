"""`tandem try`: run a few rows in the foreground, step by step, to develop prompts."""

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.cli.screen.console import Screen, counted, money
from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.context import batch_context
from pipeline.enrichment.trial import Trial
from pipeline.journal import join
from pipeline.planning.job import Ready, source_stages
from pipeline.processes.import_probe import probe_user_code
from schemas.errors import SourceError, UsageError
from schemas.staging import PlannedBatch
from stages.contract import graph_stages
from stages.execution.attempt import BatchContext
from stages.execution.single_flight import Shared
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.records import Record, now
from stages.journal.segments import decode_segment
from stages.models.wires.transport import close_session

RUN = "try"
_TABLE_ROWS = 20


@dataclass(frozen=True)
class TryOptions:
    spec: Path
    rows: int
    stage: str | None
    partition: str | None
    graph: bool


async def try_command(options: TryOptions, screen: Screen) -> int:
    """Run the stages on the first rows of a partition and show each step."""
    spec, base = read_spec(options.spec)
    await probe_user_code(spec, base, screen.fault)
    ready = await asyncio.to_thread(preflight, spec, base, file=options.spec)
    names = [stage.name for stage in ready.job.stages]
    if options.stage is not None and options.stage not in names:
        raise UsageError(f"--stage {options.stage}: no such stage.", hint=f"Stages: {', '.join(names)}")
    if options.graph:
        return _graphs(ready, options.stage, screen)
    parts = await asyncio.to_thread(_rows, ready, options)
    shown_rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Any]] = {}
    spent = Counter[str]()
    cost = 0.0
    try:
        for partition, rows in parts:
            context = await _context(ready, partition, rows)
            began, trial = now(), Trial(ready.job, rows, context)
            try:
                results = await trial.through(options.stage)
            finally:
                await context.journal.close()
            if not screen.json:
                _show(partition, results, len(shown_rows), options.stage, screen)
                _show_tables(trial.tables, screen)
            shown_rows += [{"partition": partition, **row} for row in results]
            tables |= {partition: trial.tables} if trial.tables else {}
            spent.update({"calls": context.tally.calls, "calls_reused": context.tally.calls_reused})
            spent.update(_tokens(context, began))
            cost += context.tally.cost_usd
    finally:
        await close_session()
    if screen.json:
        screen.document(
            {"rows": shown_rows, "tables": tables, "usage": {**_USAGE, **spent, "cost_usd": round(cost, 6)}}
        )
        return 0
    reused = f", {counted(spent['calls_reused'], 'answer')} from the journal" if spent["calls_reused"] else ""
    tokens = f", {spent['input_tokens']:,} + {spent['output_tokens']:,} tokens" if spent["calls"] else ""
    screen.result(f"{counted(spent['calls'], 'call')}{tokens}, {money(cost)}{reused}; nothing published.")
    return 0


_USAGE = {"calls": 0, "calls_reused": 0, "input_tokens": 0, "output_tokens": 0}


def _tokens(context: BatchContext, began: float) -> dict[str, int]:
    """Return the tokens of the answers that this command paid for."""
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
        keys += fingerprints(rows, stage.reads)
    with tempfile.TemporaryDirectory(prefix="tandem-") as local:
        files, _ = join.split_by_batch(ready.store, partition, join.keys_of_batch(0, keys), Path(local))
        return [record for path in files.values() for record in decode_segment(path.read_bytes()).records]


def _graphs(ready: Ready, only: str | None, screen: Screen) -> int:
    diagrams = {
        stage.name: stage.graph.get_graph().draw_mermaid()
        for stage in graph_stages(ready.job.stages)
        if only in (None, stage.name)
    }
    if screen.json:
        screen.document(diagrams)
    for name, text in diagrams.items():
        screen.result(f"%% {name}\n{text}")
    return 0


def _rows(ready: Ready, options: TryOptions) -> list[tuple[str, pl.DataFrame]]:
    """Return the first rows, from as many partitions as needed."""
    snapshot = ready.job.snapshot
    known = snapshot.partitions
    if options.partition is not None and options.partition not in known:
        hint = f"For example {', '.join(known[:3])}" if known else ""
        raise UsageError(f"--partition {options.partition}: no such partition.", hint=hint)
    parts: list[tuple[str, pl.DataFrame]] = []
    remaining = options.rows
    for partition in [options.partition] if options.partition is not None else known:
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


def _show(partition: str, rows: list[dict[str, Any]], offset: int, only: str | None, screen: Screen) -> None:
    for number, row in enumerate(rows, start=offset + 1):
        screen.result(f"── row {number}, {partition} {'─' * 40}"[:72])
        for name, value in row["input"].items():
            screen.result(f"  {name}: {_cut(value)}")
        for stage, result in row["stages"].items():
            if only in (None, stage):
                _show_stage(stage, result, screen)


def _show_stage(stage: str, result: dict[str, Any], screen: Screen) -> None:
    screen.result(f"  {stage} → {result['status']}{_usage_text(result.get('usage'))}")
    for step in result.get("steps", []):
        screen.result(f"    {step['node']}: {_cut(step['update'], 300)}")
    if result.get("error"):
        screen.result(f"    {result['error'].get('kind')}: {result['error'].get('message')}")
        for question in result["error"].get("questions", ()):
            screen.result(f"    asks: {_cut(question['asks'], 300)}")
    for name, value in (result.get("output") or {}).items():
        screen.result(f"    {name} = {_cut(value)}")


def _usage_text(usage: dict[str, Any] | None) -> str:
    if not usage or not usage["calls"]:
        return ""
    tokens = f"{usage['input_tokens']:,} + {usage['output_tokens']:,} tokens"
    return f" ({counted(usage['calls'], 'call')}, {tokens}, {money(usage['cost_usd'])})"


def _show_tables(tables: dict[str, list[dict[str, Any]]], screen: Screen) -> None:
    for stage, rows in tables.items():
        screen.result(f"── {stage}, over the rows tried {'─' * 40}"[:72])
        for row in rows[:_TABLE_ROWS]:
            screen.result("  " + _cut(", ".join(f"{name} = {_cut(value, 60)}" for name, value in row.items())))
        if len(rows) > _TABLE_ROWS:
            screen.result(f"  … and {len(rows) - _TABLE_ROWS:,} more")


def _cut(value: Any, limit: int = 160) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
