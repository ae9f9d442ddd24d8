"""The summary of a run: what became of its partitions and rows, what it cost, and the next step."""

import datetime as dt

from pipeline.cli.screen.console import broken, counted, duration_text, failure, money
from pipeline.runs.job_counts import JobCounts
from pipeline.runs.report import Report, cascades, moved_models
from schemas.errors import by_code
from schemas.manifest import Usage
from schemas.plan import REPUBLISH

_FAULTS = 10


def summary(report: Report) -> list[str]:
    """Return a few lines, failures with their reasons."""
    totals = report.totals
    counts, usage, reuse = totals.counts, totals.usage, totals.reuse
    duration = (
        f" in {duration_text((report.finished_at - report.started_at).total_seconds())}" if report.finished_at else ""
    )
    parts = [f"{totals.published:,} published", f"{totals.unchanged:,} unchanged"]
    parts += [
        f"{getattr(totals, name):,} {name.replace('_', ' ')}"
        for name in ("failed", "cancelled", "not_run")
        if getattr(totals, name)
    ]
    lines = [f"Run {report.run} {report.state}{duration}: {', '.join(parts)} of {counted(totals.total, 'partition')}."]
    if counts.rows_in:
        outcomes = [
            f"{getattr(counts, name):,} {name}"
            for name in ("ok", "rejected", "filtered", "pending", "unfinished")
            if name == "ok" or getattr(counts, name)
        ]
        removed = f", {counts.removed:,} removed since the last generation" if counts.removed else ""
        lines.append(f"Rows: {counts.rows_in:,} in: {', '.join(outcomes)}; {counts.out:,} published{removed}.")
    if counts.rows_in or usage.calls:
        lines.append(_paid(usage))
    if report.jobs.submitted:
        lines.append(_by_jobs(report.jobs))
    if usage.cached_input_tokens or usage.cache_write_tokens:
        lines.append(_cached(usage))
    if report.retired:
        lines.append(f"Retired: {counted(report.retired, 'partition')}, gone from the source.")
    if report.gone.partitions:
        lines.append(
            f"Kept: {counted(report.gone.partitions, 'partition')} that the source has no more "
            f"({counted(report.gone.rows, 'row')}); tandem run --prune retires them."
        )
    if report.lost_attempts_note:
        lines.append(report.lost_attempts_note)
    if reuse.rows_reused or reuse.rows_shared or reuse.calls_reused:
        lines.append(
            f"Not paid: {reuse.rows_reused:,} rows known from the journal, {reuse.rows_shared:,} equal to another row, "
            f"{reuse.calls_reused:,} calls replayed."
        )
    for stage, found in cascades(totals).items():
        saved = found["saving_usd"]
        less = f", about {money(saved)} less than main alone" if saved is not None and saved > 0 else ""
        lines.append(f"Cascade {stage}: {found['escalated']:.1%} of the answers are the main model's{less}.")
    faults = list(report.failures)
    if report.stop is not None and (not faults or not report.stop.partition):  # of no partition: the cause of theirs
        faults = [report.stop, *faults]
    lines += [failure(fault.partition, fault.error, fault.message) for fault in faults[:_FAULTS]]
    if len(faults) > _FAULTS:
        lines.append(f"  … and {len(faults) - _FAULTS:,} more")
    lines += [f"{check.partition}: {broken(check)}" for check in report.checks[:_FAULTS]]
    if len(report.checks) > _FAULTS:
        lines.append(f"  … and {len(report.checks) - _FAULTS:,} more checks: tandem runs show {report.run} --json")
    lines += moved_models(report.answered_by)
    if report.mixed.partitions:
        lines.append(_mixed(report))
    if totals.failed or totals.cancelled or totals.not_run:
        lines.append(_next_step(report))
    return lines


def _by_jobs(jobs: JobCounts) -> str:
    """Return how far the provider's batch jobs are, and what they have saved."""
    out = jobs.submitted - jobs.completed - jobs.expired
    parts = [f"{jobs.completed:,} worked off"]
    parts += [f"{jobs.expired:,} ended early"] if jobs.expired else []
    if out:
        until = (
            ""
            if jobs.deadline is None
            else f" until {dt.datetime.fromtimestamp(jobs.deadline, dt.UTC):%Y-%m-%d %H:%M} UTC"
        )
        parts.append(f"{out:,} out{until}")
    saved = f"; {money(jobs.saved_usd)} saved against the standard price" if jobs.saved_usd else ""
    return (
        f"By {counted(jobs.submitted, 'provider job')} ({', '.join(parts)}): {jobs.done:,} of "
        f"{counted(jobs.requests, 'call')} answered{saved}."
    )


def _mixed(report: Report) -> str:
    """Return the state of an unfinished change of columns, and the next step."""
    mixed = report.mixed
    gone = "; to retire those that are gone from the source: tandem run --prune" if report.gone.partitions else ""
    return (
        f"The dataset is mixed: {mixed.partitions:,} of {counted(mixed.of, 'partition')} still have the columns of "
        f"before the change ({mixed.change}), and readers of the whole dataset are refused. To finish it: "
        f"{REPUBLISH}{gone}."
    )


def _next_step(report: Report) -> str:
    """Return the next step: run again, unless the failures would repeat."""
    kept = "answers are not paid for again."
    repeating = sum(by_code(fault.error).repeats for fault in report.failures)
    if not repeating:
        return f"Run it again for what is missing; {kept}"
    left = report.totals.failed + report.totals.cancelled + report.totals.not_run - repeating
    others = f" ({counted(left, 'other partition')} only need that)" if left > 0 else ""
    return f"Do what is named above for {counted(repeating, 'partition')}, then run it again{others}; {kept}"


def _cached(usage: Usage) -> str:
    saved = usage.cache_saved_usd
    effect = f"{money(saved)} saved" if saved >= 0 else f"which cost {money(-saved)} more than without it"
    return f"Prompt cache: {usage.cached_input_tokens:,} tokens read, {usage.cache_write_tokens:,} written, {effect}."


def _paid(usage: Usage) -> str:
    unpriced = f" ({usage.unpriced_calls:,} calls of unknown price)" if usage.unpriced_calls else ""
    twice = f"; {usage.repaid:,} calls were paid again" if usage.repaid else ""
    unknown = f"; {usage.unknown:,} calls ended without an answer and may be billed" if usage.unknown else ""
    return (
        f"Paid: {counted(usage.calls, 'call')}, {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, "
        f"{money(usage.cost_usd)}{unpriced}{twice}{unknown}."
    )
