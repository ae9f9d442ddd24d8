"""`tandem try`: a few rows in the foreground, step by step: the loop in which prompts are written."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pipeline.cli.console import Screen, money
from pipeline.enrich import answer_columns, batch_context
from pipeline.partitions import PlannedBatch, row_ids
from pipeline.preflight import Ready, preflight, read_spec
from schemas.errors import SourceError, UsageError
from stages.batch import BatchContext, Shared, run_graph_stage
from stages.contract import ROW, GraphStage
from stages.transport import close_session

RUN = "try"


@dataclass(frozen=True)
class TryOptions:
    spec: Path
    rows: int
    stage: str | None
    partition: str | None
    graph: bool


async def try_command(options: TryOptions, screen: Screen) -> int:
    """Show what the stages make of the first rows of a partition."""
    spec, base = read_spec(options.spec)
    ready = await asyncio.to_thread(preflight, spec, base)
    names = [stage.name for stage in ready.job.stages]
    if options.stage is not None and options.stage not in names:
        raise UsageError(f"--stage {options.stage}: no such stage.", hint=f"Stages: {', '.join(names)}")
    if options.graph:
        return _graphs(ready, options.stage, screen)
    partition, rows = await asyncio.to_thread(_rows, ready, options)
    batch = PlannedBatch(rows=rows.height, ranges=())
    context = await batch_context(ready.job, ready.store, RUN, partition, 0, batch, Shared(), asyncio.Event())
    try:
        told = await _through(ready, rows, context, options.stage, screen)
    finally:
        await context.journal.close()
        await close_session()
    tally = context.tally
    spent = {"calls": tally.calls, "calls_reused": tally.calls_reused, "cost_usd": round(tally.cost_usd, 6)}
    if screen.json:
        screen.document({"partition": partition, "rows": told, "usage": spent})
    else:
        screen.result(f"{tally.calls} calls, {money(tally.cost_usd)}; nothing was published.")
    return 0


def _graphs(ready: Ready, only: str | None, screen: Screen) -> int:
    drawn = {
        stage.name: stage.graph.get_graph().draw_mermaid()
        for stage in ready.job.stages
        if isinstance(stage, GraphStage) and only in (None, stage.name)
    }
    if screen.json:
        screen.document(drawn)
    for name, text in drawn.items():
        screen.result(f"%% {name}\n{text}")
    return 0


def _rows(ready: Ready, options: TryOptions) -> tuple[str, pl.DataFrame]:
    snapshot = ready.job.snapshot
    known = snapshot.partitions
    partition = options.partition or next((k for k in known if snapshot.entry(k).rows), None)
    if partition is None:
        raise SourceError("The source has no rows to try.")
    if partition not in known:
        raise UsageError(f"--partition {partition}: no such partition.", hint=f"For example {', '.join(known[:3])}")
    ranges, room = [], options.rows
    for found in snapshot.entry(partition).ranges:
        ranges.append(found.model_copy(update={"rows": min(found.rows, room)}))
        room -= ranges[-1].rows
    return partition, snapshot.read(partition, ranges)


async def _through(
    ready: Ready, rows: pl.DataFrame, context: BatchContext, only: str | None, screen: Screen
) -> list[dict[str, Any]]:
    """The rows through all stages, in the foreground; what each stage made of each row."""
    told: list[dict[str, Any]] = [{"input": row, "stages": {}} for row in rows.iter_rows(named=True)]
    identities = row_ids(rows, ready.job.spec.source.key)
    frame = rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))
    for stage in ready.job.stages:
        positions = frame[ROW].to_list()
        if not isinstance(stage, GraphStage):
            frame = stage.apply(frame)
            for at in sorted(set(positions) - set(frame[ROW].to_list())):
                told[at]["stages"][stage.name] = {"status": "filtered"}
            continue
        steps: dict[str, list[Any]] = {}
        context.on_step = lambda row, node, update, seen=steps: seen.setdefault(row, []).append([node, update])
        outcome = await run_graph_stage(stage, frame, [identities[at] for at in positions], context)
        if outcome.stopped is not None:
            raise outcome.stopped
        answers = []
        for at, record in zip(positions, outcome.records, strict=True):
            assert record is not None
            answers.append(orjson.loads(record.answer) if record.answer else None)
            made = {"status": record.status, "output": answers[-1], "error": record.error}
            told[at]["stages"][stage.name] = {**made, "steps": _plain(steps.get(record.row, []))}
        columns = answer_columns(answers, stage.fields)
        kept = pl.Series([a is not None or stage.spec.on_reject == "null" for a in answers], dtype=pl.Boolean)
        frame = frame.with_columns(pl.Series(name, values) for name, values in columns.items()).filter(kept)
    if not screen.json:
        _show(told, only, screen)
    return told


def _plain(steps: list[Any]) -> list[dict[str, Any]]:
    return [{"node": node, "update": _short(update)} for node, update in steps]


def _short(update: Any) -> Any:
    """A node's update as text of a bearable length; messages as who said what."""
    if isinstance(update, dict):
        return {key: _short(value) for key, value in update.items()}
    if isinstance(update, list):
        return [_short(value) for value in update[-2:]]
    text = f"{update.type}: {update.content}" if hasattr(update, "content") else update
    return text if isinstance(text, int | float | bool | None) else str(text)[:500]


def _show(told: list[dict[str, Any]], only: str | None, screen: Screen) -> None:
    for number, row in enumerate(told, start=1):
        screen.result(f"── row {number} " + "─" * 40)
        for name, value in row["input"].items():
            screen.result(f"  {name}: {_cut(value)}")
        for stage, made in row["stages"].items():
            if only not in (None, stage):
                continue
            screen.result(f"  {stage} → {made['status']}")
            for step in made.get("steps", []):
                screen.result(f"    {step['node']}: {_cut(step['update'], 300)}")
            if made.get("error"):
                screen.result(f"    {made['error'].get('kind')}: {made['error'].get('message')}")
            for name, value in (made.get("output") or {}).items():
                screen.result(f"    {name} = {_cut(value)}")


def _cut(value: Any, limit: int = 160) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
