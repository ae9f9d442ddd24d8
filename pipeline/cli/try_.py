"""`tandem try`: a few rows in the foreground, step by step: the loop in which prompts are written."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pipeline import dealing
from pipeline.cli.console import Screen, counted, money
from pipeline.enrich import answer_columns, batch_context
from pipeline.partitions import PlannedBatch, row_ids
from pipeline.preflight import Ready, preflight, read_spec
from schemas.errors import ConnectionFailed, SourceError, UsageError
from stages.batch import BatchContext, Shared, run_graph_stage
from stages.calls import Waiting
from stages.contract import ROW, GraphStage
from stages.fingerprints import fingerprints
from stages.journal import Record, decode_segment
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
    parts = await asyncio.to_thread(_rows, ready, options)
    told: list[dict[str, Any]] = []
    spent = {"calls": 0, "calls_reused": 0, "cost_usd": 0.0}
    try:
        for partition, rows in parts:
            context = await _context(ready, partition, rows)
            try:
                made = await _through(ready, rows, context)
            finally:
                await context.journal.close()
            if not screen.json:
                _show(partition, made, len(told), options.stage, screen)
            told += [{"partition": partition, **row} for row in made]
            tally = context.tally
            spent["calls"] += tally.calls
            spent["calls_reused"] += tally.calls_reused
            spent["cost_usd"] += tally.cost_usd
    finally:
        await close_session()
    if screen.json:
        screen.document({"rows": told, "usage": spent})
    else:
        reused = f", {counted(int(spent['calls_reused']), 'answer')} from the journal" if spent["calls_reused"] else ""
        screen.result(f"{counted(int(spent['calls']), 'call')}, {money(spent['cost_usd'])}{reused}; nothing published.")
    return 0


async def _context(ready: Ready, partition: str, rows: pl.DataFrame) -> BatchContext:
    """A journal that knows what runs of this partition have paid for already."""
    batch = PlannedBatch(rows=rows.height, ranges=())
    context = await batch_context(ready.job, ready.store, RUN, partition, 0, batch, Shared(), asyncio.Event())
    for record in await asyncio.to_thread(_known, ready, partition, rows):
        context.journal.known.add(record)
    return context


def _known(ready: Ready, partition: str, rows: pl.DataFrame) -> list[Record]:
    keys = row_ids(rows, ready.job.spec.source.key)
    for stage in ready.job.stages:
        if isinstance(stage, GraphStage) and set(stage.reads) <= set(rows.columns):
            keys += fingerprints(rows, stage.reads)
    wanted = pl.DataFrame({"batch": pl.Series([0] * len(keys), dtype=pl.Int64), "key": keys})
    with tempfile.TemporaryDirectory(prefix="tandem-") as local:
        dealt, _ = dealing.deal_known(ready.store, partition, wanted, Path(local))
        return [record for path in dealt.values() for record in decode_segment(path.read_bytes()).records]


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


def _rows(ready: Ready, options: TryOptions) -> list[tuple[str, pl.DataFrame]]:
    """The first rows, from as many partitions as they take."""
    snapshot = ready.job.snapshot
    known = snapshot.partitions
    if options.partition is not None and options.partition not in known:
        hint = f"For example {', '.join(known[:3])}" if known else ""
        raise UsageError(f"--partition {options.partition}: no such partition.", hint=hint)
    parts: list[tuple[str, pl.DataFrame]] = []
    room = options.rows
    for partition in [options.partition] if options.partition is not None else known:
        ranges = []
        for found in snapshot.entry(partition).ranges:
            ranges.append(found.model_copy(update={"rows": min(found.rows, room)}))
            room -= ranges[-1].rows
        if any(found.rows for found in ranges):
            parts.append((partition, snapshot.read(partition, ranges)))
        if not room:
            break
    if not parts:
        raise SourceError("There are no rows to try.")
    return parts


async def _through(ready: Ready, rows: pl.DataFrame, context: BatchContext) -> list[dict[str, Any]]:
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
        if isinstance(outcome.stopped, Waiting):
            raise ConnectionFailed(outcome.stopped.message, hint="Answers so far are kept; try again later.")
        if outcome.stopped is not None:
            raise outcome.stopped
        answers = []
        for at, record in zip(positions, outcome.records, strict=True):
            assert record is not None
            answers.append(orjson.loads(record.answer) if record.answer else None)
            made = {"status": record.status, "output": answers[-1], "error": record.error}
            told[at]["stages"][stage.name] = {**made, "steps": _plain(steps.get(record.row, []))}
        columns = answer_columns(answers, stage.fields)
        nulls = stage.spec.on_reject == "null"
        ends = [record.status if record is not None else "" for record in outcome.records]
        kept = pl.Series([end == "ok" or (end == "rejected" and nulls) for end in ends], dtype=pl.Boolean)
        frame = frame.with_columns(pl.Series(name, values) for name, values in columns.items()).filter(kept)
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


def _show(partition: str, told: list[dict[str, Any]], before: int, only: str | None, screen: Screen) -> None:
    for number, row in enumerate(told, start=before + 1):
        screen.result(f"── row {number}, {partition} {'─' * 40}"[:72])
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
                for question in made["error"].get("questions", ()):
                    screen.result(f"    asks: {_cut(question['asks'], 300)}")
            for name, value in (made.get("output") or {}).items():
                screen.result(f"    {name} = {_cut(value)}")


def _cut(value: Any, limit: int = 160) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
