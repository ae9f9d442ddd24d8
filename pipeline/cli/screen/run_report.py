"""The story of a run on a screen: its partitions, its calls, what was slow, dear or rejected."""

from pipeline.cli.screen.console import Screen, counted, lasting, money
from pipeline.runs import outcomes, statistics
from pipeline.runs.report import Report
from pipeline.runs.statistics import CostlyRow, RunStatistics
from pipeline.stores import Store
from schemas import ids

_LINES = 40
_ROWS = 3
_REASON = 100


def story_of(store: Store, report: Report) -> RunStatistics:
    """As it was told at the run's end; of a run that has none, how its partitions stand."""
    found = statistics.load(store, report.run)
    if found is not None and report.finished_at is not None:
        return found
    return RunStatistics(lines=tuple(statistics.partition_lines(store, report, outcomes.outcomes(store, report.run))))


def show_story(store: Store, report: Report, said: RunStatistics, screen: Screen) -> None:
    """Partitions first, those that went wrong on top."""
    screen.table(
        ("partition", "outcome", "rows", "rejected", "published", "calls", "cost", "why"),
        [
            (
                line.partition, line.outcome.replace("_", " "), line.rows, line.rejected, line.out, line.calls,
                money(line.cost_usd), _short(line.reason),
            )
            for line in said.lines[:_LINES]
        ],
    )  # fmt: skip
    if len(said.lines) > _LINES:
        screen.result(f"… and {len(said.lines) - _LINES:,} partitions more")
    if said.moments:
        first, last = said.moments[0], said.moments[-1]
        over = (last.at - first.at).total_seconds() + last.seconds
        shares = ", ".join(f"{name} {value:,.0f} ms" for name, value in said.percentiles_ms.items())
        calls = counted(sum(moment.calls for moment in said.moments), "call")
        screen.result(f"Timeline: {calls} from {first.at:%Y-%m-%d %H:%M:%S} UTC, over {lasting(over)}; {shares}")
    _say_rows("Slowest rows", said.slowest, screen)
    _say_rows("Dearest rows", said.dearest, screen)
    for found in said.errors:
        example = f" (for example {found.key})" if found.key else ""
        screen.result(f"Rejected: {found.rows:,} × {found.stage}: {found.error}: {_short(found.message)}{example}")
    if store.head(ids.report_page(report.run)) is not None:
        screen.result(f"In a browser: {store.uri}/{ids.report_page(report.run)}")


def _say_rows(title: str, rows: tuple[CostlyRow, ...], screen: Screen) -> None:
    if rows:
        screen.result(f"{title}:")
    for row in rows[:_ROWS]:
        calls = counted(row.calls, "call")
        screen.result(
            f"  {row.partition} row {row.key or row.row}: {calls}, {lasting(row.ms / 1000)}, {money(row.cost_usd)}"
        )


def _short(text: str) -> str:
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"
