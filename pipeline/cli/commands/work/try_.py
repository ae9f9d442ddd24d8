"""`tandem try`: run a few rows in the foreground, step by step, to develop prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cli.screen.console import Screen, counted, money
from pipeline.client.spec_file import read_spec
from pipeline.enrichment.tried_rows import Tried
from pipeline.processes.expendable.import_probe import probe_user_code
from pipeline.processes.expendable.trial_process import draw_apart, try_apart
from schemas.spec.tiers import uses_tier, with_tier
from schemas.tier import Tier

_TABLE_ROWS = 20


@dataclass(frozen=True)
class TryOptions:
    spec: Path
    rows: int
    stage: str | None
    partition: str | None
    graph: bool
    tier: Tier | None = None


async def try_command(options: TryOptions, screen: Screen) -> int:
    """Run the stages on the first rows of a partition and show each step. User code runs in a process of its own."""
    spec, base = read_spec(options.spec)
    spec = with_tier(spec, options.tier)
    await probe_user_code(spec, base, screen.fault)
    if options.graph:
        return _graphs(await draw_apart(options.spec, options.stage, screen.fault), screen)
    if uses_tier(spec, "batch"):
        screen.note("Tried at the standard price: a job would take hours. What it answers is known to a run by jobs.")
    tried = Tried(options.rows, options.stage, options.partition, options.tier)
    document = await try_apart(options.spec, tried, screen.fault)
    parts, spent = document["parts"], document["usage"]
    if screen.json:
        rows = [{"partition": part["partition"], **row} for part in parts for row in part["rows"]]
        tables = {part["partition"]: part["tables"] for part in parts if part["tables"]}
        screen.document({"rows": rows, "tables": tables, "usage": spent})
        return 0
    shown = 0
    for part in parts:
        _show(part["partition"], part["rows"], shown, options.stage, screen)
        _show_tables(part["tables"], screen)
        shown += len(part["rows"])
    reused = f", {counted(spent['calls_reused'], 'answer')} from the journal" if spent["calls_reused"] else ""
    tokens = f", {spent['input_tokens']:,} + {spent['output_tokens']:,} tokens" if spent["calls"] else ""
    cost = money(spent["cost_usd"])
    screen.result(f"{counted(spent['calls'], 'call')}{tokens}, {cost}{reused}; nothing published.")
    return 0


def _graphs(diagrams: dict[str, str], screen: Screen) -> int:
    if screen.json:
        screen.document(diagrams)
    for name, text in diagrams.items():
        screen.result(f"%% {name}\n{text}")
    return 0


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
