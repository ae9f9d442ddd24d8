"""`tandem plan`: what would run and why, what it would ask and cost. `tandem run` says the same before it starts."""

import asyncio
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, counted, lasting, money
from pipeline.client.preflight import preflight, read_spec
from pipeline.estimates.preview import Preview, preview, to_saved_plan
from pipeline.planning import saved_plan
from pipeline.planning.job import Ready
from pipeline.processes.import_probe import probe_user_code
from schemas.plan import Decision, RowChanges, Selection

_GROUPS = 20


@dataclass(frozen=True)
class PlanOptions:
    """The arguments of one `tandem plan`."""

    spec: Path
    selection: Selection
    out: Path | None = None
    detailed_exitcode: bool = False


async def plan_command(options: PlanOptions, screen: Screen) -> int:
    """The plan; the exit code."""
    spec, base = read_spec(options.spec)
    await probe_user_code(spec, base, screen.fault)
    ready = await asyncio.to_thread(preflight, spec, base, file=options.spec)
    outlook = await asyncio.to_thread(preview, ready, options.selection)
    if options.out is not None:
        saved_plan.write(options.out, to_saved_plan(ready, outlook))
        screen.say(f"Written to {options.out}; do just that with: {command()} run {options.spec} --plan {options.out}")
    if screen.json:
        screen.document(as_json(outlook))
    else:
        for text in [*decisions_said(ready, outlook.found.decisions), *estimate_said(outlook)]:
            screen.result(text)
    return 2 if options.detailed_exitcode and outlook.found.running else 0


def as_json(outlook: Preview) -> dict[str, Any]:
    found = outlook.estimate
    return {
        "partitions": [
            {
                "partition": decision.partition,
                "decision": "run" if decision.run else "skip",
                "reason": decision.why,
                "rows": decision.moved.model_dump(),
            }
            for decision in outlook.found.decisions
        ],
        "estimate": {
            "calls": found.calls,
            "input_tokens": found.input_tokens,
            "output_tokens": found.output_tokens,
            "cost_usd": found.cost_usd or (None, None),
            "seconds": found.seconds,
        },
    }


def decisions_said(ready: Ready, decided: list[Decision]) -> list[str]:
    """The resolved list, with the reason for each partition; neighbours of one reason are one line, rows added up."""
    todo = [decision for decision in decided if decision.run]
    rows = sum(decision.rows for decision in todo)
    parts = counted(len(decided), "partition")
    said = [f"{ready.spec.name}: {len(todo):,} of {parts} to run, {counted(rows, 'row')}."]
    groups = [list(group) for _, group in groupby(decided, key=lambda decision: (decision.run, decision.reason))]
    for group in groups[:_GROUPS]:
        first, last = group[0], group[-1]
        span = first.partition if first is last else f"{first.partition} … {last.partition} ({len(group):,})"
        changes = sum((decision.moved for decision in group), RowChanges())
        said.append(f"  {'run ' if first.run else 'skip'} {span}: {replace(first, changes=changes).why}")
    if len(groups) > _GROUPS:
        said.append(f"  … and {len(groups) - _GROUPS} more groups; all of them: --json")
    return said


def estimate_said(outlook: Preview) -> list[str]:
    """Rows, calls, tokens, money and time of what would run."""
    found, rows = outlook.estimate, outlook.found.changes
    if not outlook.found.running:
        return []
    said = [
        f"Rows: {rows.new:,} new, {rows.changed:,} changed, {rows.unchanged:,} unchanged, {rows.removed:,} removed."
    ]
    if not found.calls[1]:
        return [*said, "No calls to a model."]
    if found.cost_usd is None:
        cost = "their price is unknown"
    elif found.cost_usd[1] == 0:
        cost = "free"
    else:
        cost = f"{money(found.cost_usd[0])} to {money(found.cost_usd[1])}"
    calls = counted(found.calls[1], "call")
    if found.calls[0] != found.calls[1]:
        calls = f"{found.calls[0]:,} to {calls}"
    tokens = f"{found.input_tokens[0]:,} to {found.input_tokens[1]:,} tokens in, to {found.output_tokens[1]:,} out"
    return [*said, f"{calls}, {cost}; {tokens}; {lasting(found.seconds[0])} to {lasting(found.seconds[1])}."]
