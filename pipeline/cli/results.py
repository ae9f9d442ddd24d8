"""The end of a run for a reader: what happened, three rows of it, where it lies, how to read it."""

import polars as pl
from rich.table import Table

from pipeline import consume
from pipeline.cli.console import Screen, lasting, money, out
from pipeline.preflight import Ready
from pipeline.reports import Report

_SAMPLE_ROWS = 3
_CELL = 60


def show_result(report: Report, ready: Ready, screen: Screen) -> None:
    """Summary, sample, path and code."""
    for text in summary(report):
        screen.result(text)
    if report.totals.counts.out or report.totals.unchanged:
        sample = consume.head(ready.store, _SAMPLE_ROWS)
        if sample is not None and sample.height and not screen.quiet:
            show_rows(sample, new=[name for stage in ready.job.stages for name in getattr(stage, "fields", {})])
    screen.result(f"Output: {report.sink}/data")
    screen.result(f"Read it: {consume.how_to_read(report.sink)}")


def summary(report: Report) -> list[str]:
    """A few lines, failures with their reasons."""
    totals = report.totals
    counts, usage, reuse = totals.counts, totals.usage, totals.reuse
    took = f" in {lasting((report.finished_at - report.started_at).total_seconds())}" if report.finished_at else ""
    parts = [f"{totals.published:,} published", f"{totals.unchanged:,} unchanged"]
    parts += [
        f"{getattr(totals, name):,} {name.replace('_', ' ')}"
        for name in ("failed", "cancelled", "not_run")
        if getattr(totals, name)
    ]
    lines = [f"Run {report.run} {report.state}{took}: {', '.join(parts)} of {totals.total:,} partitions."]
    if counts.rows_in:
        lines.append(
            f"Rows: {counts.rows_in:,} in = {counts.ok:,} ok + {counts.rejected:,} rejected + {counts.filtered:,} "
            f"filtered + {counts.pending:,} pending; {counts.out:,} published, {counts.removed:,} removed since the "
            "last generation."
        )
        needed = usage.calls - usage.repaid
        lines.append(
            f"Paid: {usage.calls:,} calls, {usage.input_tokens:,} + {usage.output_tokens:,} tokens, "
            f"{money(usage.cost_usd)}"
            + (f" ({usage.unpriced_calls:,} calls of unknown price)" if usage.unpriced_calls else "")
            + f"; billed / needed = {usage.calls / needed if needed else 1:.3f}, {usage.unknown:,} unknown outcomes."
        )
        lines.append(
            f"Not paid: {reuse.rows_reused:,} rows from the journal, {reuse.rows_shared:,} rows equal to another, "
            f"{reuse.calls_reused:,} calls replayed."
        )
    lines += [f"✗ {failure.partition or 'run'}: {failure.error}: {failure.message}" for failure in report.failures[:10]]
    if report.stop is not None and not report.failures:
        lines.append(f"✗ {report.stop.error}: {report.stop.message}")
    return lines


def show_rows(rows: pl.DataFrame, *, new: list[str]) -> None:
    """A table; columns that stages wrote come last and are always shown."""
    names = [name for name in rows.columns if name not in new]
    shown = [*names[: max(2, 6 - len(new))], *[name for name in rows.columns if name in new]]
    table = Table(show_lines=False)
    for name in shown:
        table.add_column(name, style="bold" if name in new else None, overflow="fold")
    for row in rows.select(shown).iter_rows():
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return (text if len(text) <= _CELL else text[: _CELL - 1] + "…").replace("[", "\\[")
