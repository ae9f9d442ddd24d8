"""`tandem plan`: show what would run and why, its calls and cost. `tandem run` shows the same before it starts."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, broken, counted, duration_text, money
from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.estimates.cost_estimate import TierEstimate
from pipeline.estimates.preview import Preview, preview, to_saved_plan
from pipeline.planning import saved_plan, unique_keys
from pipeline.planning.job import Ready
from pipeline.processes.expendable.import_probe import probe_user_code
from pipeline.runs.report import PartitionCheck, as_json_check, moved_models
from pipeline.sources.readiness import named
from schemas.plan import Decision, RowChanges, Selection
from schemas.spec.tiers import with_tier
from schemas.tier import Tier

_GROUPS = 20


@dataclass(frozen=True)
class PlanOptions:
    """The arguments of one `tandem plan`."""

    spec: Path
    selection: Selection
    out: Path | None = None
    detailed_exitcode: bool = False
    tier: Tier | None = None


async def plan_command(options: PlanOptions, screen: Screen) -> int:
    """Show the plan. Return the exit code."""
    spec, base = read_spec(options.spec)
    spec = with_tier(spec, options.tier)
    await probe_user_code(spec, base, screen.fault)
    ready = await asyncio.to_thread(preflight, spec, base, file=options.spec)
    outlook = await asyncio.to_thread(preview, ready, options.selection)
    checks = await asyncio.to_thread(_shared_keys, ready, outlook.found.decisions)
    if options.out is not None:
        saved_plan.write(options.out, to_saved_plan(ready, outlook))
        screen.note(
            f"Plan written to {options.out}; run exactly this plan: {command()} run {options.spec} --plan {options.out}"
        )
    if screen.json:
        broken_checks = {"checks": [as_json_check(check) for check in checks]} if checks else {}
        screen.document({**as_json(ready, outlook), **broken_checks})
    else:
        for text in [*decision_lines(ready, outlook.found.decisions), *estimate_lines(outlook)]:
            screen.result(text)
        for check in checks[:_GROUPS]:
            screen.result(f"{check.partition}: {broken(check)}")
    retires = any(decision.retire for decision in outlook.found.decisions)
    return 2 if options.detailed_exitcode and (outlook.found.running or retires) else 0


def _shared_keys(ready: Ready, decisions: list[Decision]) -> list[PartitionCheck]:
    """Return the checks of unique keys that the partitions to run break."""
    return [
        PartitionCheck(partition=found.partition, **check.model_dump())
        for found in unique_keys.find(ready.job, ready.store, decisions)
        for check in unique_keys.as_checks(ready.spec, found)
    ]


def as_json(ready: Ready, outlook: Preview) -> dict[str, Any]:
    estimate, files = outlook.estimate, ready.job.snapshot.waiting
    tiers = {
        tier: {"cost_usd": each.cost_usd or (None, None), "seconds": each.seconds}
        for tier, each in estimate.tiers.items()
    }
    waiting = [{"file": file.relative, "reason": file.waits_for} for file in files]
    return {
        "partitions": [
            {
                "partition": decision.partition,
                "decision": "retire" if decision.retire else "run" if decision.run else "skip",
                "reason": decision.why,
                "rows": _rows_of(decision),
            }
            for decision in outlook.found.decisions
        ],
        "estimate": {
            "calls": estimate.calls,
            "input_tokens": estimate.input_tokens,
            "output_tokens": estimate.output_tokens,
            "cost_usd": estimate.cost_usd or (None, None),
            "seconds": estimate.seconds,
            **({"tiers": tiers} if tiers else {}),
        },
        **({"waiting": waiting} if waiting else {}),
        **({"answered_by": outlook.answered_by} if outlook.answered_by else {}),
    }


def _rows_of(decision: Decision) -> dict[str, int]:
    if decision.changes is None and not decision.retire:  # as most of 100,000 partitions
        return {"new": 0, "changed": 0, "unchanged": decision.rows, "removed": 0}
    return decision.moved.model_dump()


def decision_lines(ready: Ready, decisions: list[Decision]) -> list[str]:
    """Return each partition with its reason; neighbours with the same reason are one line with their rows added up."""
    to_run = [decision for decision in decisions if decision.run]
    rows = sum(decision.rows for decision in to_run)
    parts = counted(sum(not decision.retire for decision in decisions), "partition")
    lines = [f"{ready.spec.name}: {len(to_run):,} of {parts} to run, {counted(rows, 'row')}."]
    groups = [
        list(group)
        for _, group in groupby(decisions, key=lambda decision: (decision.run, decision.retire, decision.reason))
    ]
    for group in groups[:_GROUPS]:
        first, last = group[0], group[-1]
        span = first.partition if first is last else f"{first.partition} … {last.partition} ({len(group):,})"
        changes = sum((decision.moved for decision in group), RowChanges())
        word, rows_gone = "run " if first.run else "skip", ""
        if first.retire:
            word, rows_gone = "retire", f": {counted(sum(one.rows for one in group), 'published row')}"
        lines.append(f"  {word} {span}: {replace(first, changes=changes).why}{rows_gone}")
    if len(groups) > _GROUPS:
        lines.append(f"  … and {len(groups) - _GROUPS} more groups; all of them: --json")
    if ready.job.snapshot.waiting:
        files = ready.job.snapshot.waiting
        lines.append(f"{counted(len(files), 'file')} left to a later run: {named(files)}.")
    former = sum(decision.has("columns") for decision in decisions)
    if former:
        lines.append(
            f"{former:,} of {parts} have the columns of before the change. Until all are published again, readers of "
            "the whole dataset are refused, and a table keeps what it has."
        )
    return lines


def estimate_lines(outlook: Preview) -> list[str]:
    """Return lines with the rows, calls, tokens, cost and time of what would run."""
    estimate, rows = outlook.estimate, outlook.found.changes
    if not outlook.found.running:
        return list(moved_models(outlook.answered_by))
    lines = [
        *moved_models(outlook.answered_by),
        f"Rows: {rows.new:,} new, {rows.changed:,} changed, {rows.unchanged:,} unchanged, {rows.removed:,} removed.",
    ]
    if not estimate.calls[1]:
        return [*lines, "No calls to a model."]
    if estimate.cost_usd is None:
        cost = "their price is unknown"
    elif estimate.cost_usd[1] == 0:
        cost = "free"
    else:
        cost = f"{money(estimate.cost_usd[0])} to {money(estimate.cost_usd[1])}"
    calls = counted(estimate.calls[1], "call")
    if estimate.calls[0] != estimate.calls[1]:
        calls = f"{estimate.calls[0]:,} to {calls}"
    tokens = (
        f"{estimate.input_tokens[0]:,} to {estimate.input_tokens[1]:,} tokens in, to {estimate.output_tokens[1]:,} out"
    )
    return [
        *lines,
        f"{calls}, {cost}; {tokens}; {duration_text(estimate.seconds[0])} to {duration_text(estimate.seconds[1])}.",
        *_tier_lines(estimate.tiers),
    ]


def _tier_lines(tiers: Mapping[Tier, TierEstimate]) -> list[str]:
    """Return a line with the price and the time of each tier, where there is a choice."""
    if len(tiers) < 2:
        return []
    parts = []
    for tier, each in tiers.items():
        if each.cost_usd is None:
            return []
        time = f"{duration_text(each.seconds[0])} to {duration_text(each.seconds[1])}"
        slower = " or more" if tier == "flex" else ""
        parts.append(f"{tier} {money(each.cost_usd[0])} to {money(each.cost_usd[1])}, {time}{slower}")
    return [f"By --tier: {'; '.join(parts)}."]
