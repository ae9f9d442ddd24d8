"""The statistics of a run on a screen: its partitions, its calls, and its slow, costly or rejected rows."""

from pipeline.cli.screen.console import Screen, counted, duration_text, money
from pipeline.runs.report import Report
from pipeline.runs.statistics.document import CostlyRow, RunStatistics
from pipeline.stores import Store
from schemas import ids

_LINES = 40
_ROWS = 3
_REASON = 100


def show_statistics(store: Store, report: Report, run_statistics: RunStatistics, screen: Screen) -> None:
    """Show partitions first, failed ones on top."""
    screen.table(
        ("partition", "outcome", "rows", "rejected", "published", "calls", "cost", "why"),
        [
            (
                line.partition, line.outcome.replace("_", " "), line.rows, line.rejected, line.out, line.calls,
                money(line.cost_usd), _short(line.reason),
            )
            for line in run_statistics.lines[:_LINES]
        ],
    )  # fmt: skip
    if len(run_statistics.lines) > _LINES:
        screen.result(f"… and {len(run_statistics.lines) - _LINES:,} partitions more")
    if run_statistics.moments:
        first, last = run_statistics.moments[0], run_statistics.moments[-1]
        over = (last.at - first.at).total_seconds() + last.seconds
        percentiles = ", ".join(f"{name} {value:,.0f} ms" for name, value in run_statistics.percentiles_ms.items())
        shares = f"; {percentiles}" if percentiles else ""
        calls = counted(sum(moment.calls for moment in run_statistics.moments), "call")
        screen.result(f"Timeline: {calls} from {first.at:%Y-%m-%d %H:%M:%S} UTC, over {duration_text(over)}{shares}")
    _show_rows("Slowest rows", run_statistics.slowest, screen)
    _show_rows("Most expensive rows", run_statistics.dearest, screen)
    for found in run_statistics.errors:
        example = f" (for example {found.key})" if found.key else ""
        screen.result(f"Rejected: {found.rows:,} × {found.stage}: {found.error}: {_short(found.message)}{example}")
    if store.head(ids.report_page(report.run)) is not None:
        screen.result(f"In a browser: {store.uri}/{ids.report_page(report.run)}")


def _show_rows(title: str, rows: tuple[CostlyRow, ...], screen: Screen) -> None:
    if rows:
        screen.result(f"{title}:")
    for row in rows[:_ROWS]:
        calls = counted(row.calls, "call")
        duration = duration_text(row.ms / 1000)
        screen.result(f"  {row.partition} row {row.key or row.row}: {calls}, {duration}, {money(row.cost_usd)}")


def _short(text: str) -> str:
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"
