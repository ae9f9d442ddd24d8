"""A run's report and statistics as one HTML file: no script, no other host, plots as inline SVG."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Template

from pipeline.runs.html.charts import Chart, chart
from pipeline.runs.html.templates import Figure, Name, environment
from pipeline.runs.html.templates import utc as _time
from pipeline.runs.report import Report
from pipeline.runs.statistics.document import CostlyRow, RunStatistics

_MOST_LABELS = 6
_MOST_CHECKS = 500


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: a chart, a table, or both. `lines` are the table's; numbers in it are set to the right."""

    title: str
    chart: Chart | None = None
    heads: Sequence[str] = ()
    lines: Sequence[Sequence[object]] = ()
    note: str = ""


def page(report: Report, statistics: RunStatistics) -> str:
    """Return the whole document."""
    return _template().render(
        report=report, figures=figures(report), sections=sections(report, statistics), whole=statistics.whole
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    return environment().get_template("report.html")


def figures(report: Report) -> list[tuple[str, str]]:
    """Return the figures of a run's head, each with its name."""
    totals = report.totals
    return [
        ("partitions published", f"{totals.published:,} of {totals.total:,}"),
        ("rows in", f"{totals.counts.rows_in:,}"),
        ("rejected", f"{totals.counts.rejected:,}"),
        ("calls paid", f"{totals.usage.calls:,}"),
        ("cost", f"{totals.usage.cost_usd:,.4f} USD"),
        ("rows not paid again", f"{totals.reuse.rows_reused + totals.reuse.rows_shared:,}"),
    ]


def sections(report: Report, statistics: RunStatistics) -> list[Section]:
    """Return the parts of the page, those that have something to show."""
    return [*_sections(statistics), *([_checks(report)] if report.checks else [])]


def _sections(statistics: RunStatistics) -> Iterator[Section]:
    if statistics.moments:
        yield from _over_time(statistics)
    if statistics.latency:
        yield _latency(statistics)
    if statistics.errors:
        yield _rejects(statistics)
    if statistics.slowest:
        yield _rows("Slowest rows", statistics.slowest)
    if statistics.dearest:
        yield _rows("Most expensive rows", statistics.dearest)
    if statistics.lines:
        yield _partitions(statistics)


def _over_time(statistics: RunStatistics) -> Iterator[Section]:
    moments = statistics.moments
    middle = moments[len(moments) // 2]
    labels = [(0.0, _time(moments[0].at))]
    if len(moments) > 2:
        labels.append((len(moments) // 2 / len(moments), f"{middle.at.astimezone(dt.UTC):%H:%M:%S}"))
    if len(moments) > 1:
        labels.append((1.0, _time(moments[-1].at)))
    each = f"in {moments[0].seconds:g} s"
    rows = [(m.rows, f"{_time(m.at)}: {m.rows:,} rows, {m.calls:,} calls") for m in moments]
    title = "Rows over time"
    yield Section(title, chart(title, rows, labels, unit="rows", legend=f"rows answered {each}"))
    if any(moment.cost_usd for moment in moments):
        cost = [(m.cost_usd, f"{_time(m.at)}: {m.cost_usd:.4f} USD") for m in moments]
        title = "Cost over time"
        yield Section(title, chart(title, cost, labels, kind="money", unit="USD", legend=f"USD paid for calls {each}"))


def _latency(statistics: RunStatistics) -> Section:
    buckets = statistics.latency
    values = [(b.calls, f"{b.least_ms:,.0f} to {b.most_ms:,.0f} ms: {b.calls:,} calls") for b in buckets]
    labels = [(0.0, f"{buckets[0].least_ms:,.0f} ms"), (1.0, f"{buckets[-1].most_ms:,.0f} ms")]
    if len(buckets) > 2:
        middle = len(buckets) // 2
        labels.insert(1, (middle / len(buckets), f"{buckets[middle].least_ms:,.0f} ms"))
    title = "Latency of calls"
    legend = "calls that took so long; the horizontal axis is logarithmic"
    percentiles = ", ".join(f"{name} {value:,.0f} ms" for name, value in statistics.percentiles_ms.items())
    return Section(title, chart(title, values, labels, unit="calls", legend=legend), note=percentiles)


def _rejects(statistics: RunStatistics) -> Section:
    errors = statistics.errors
    values = [(found.rows, f"{found.stage}: {found.error}: {found.rows:,} rows") for found in errors]
    named = len(errors) <= _MOST_LABELS
    labels = [((index + 0.5) / len(errors), found.error) for index, found in enumerate(errors)] if named else []
    title = "Rejects by class"
    lines = [(e.stage, e.error, e.rows, f"{e.key}: {e.message}" if e.key else e.message) for e in errors]
    return Section(
        title,
        chart(title, values, labels, kind="bad", unit="rows", legend="rejected rows by class, as in the table"),
        heads=("stage", "error", "rows", "for example"),
        lines=lines,
    )


def _rows(title: str, rows: Sequence[CostlyRow]) -> Section:
    lines = [
        (
            Name(r.partition, r.partition), Name(r.key or r.row, r.partition, r.row), r.model, r.calls,
            Figure(f"{r.ms / 1000:,.2f}"), Figure(f"{r.cost_usd:,.6f}"),
        )
        for r in rows
    ]  # fmt: skip
    return Section(title, heads=("partition", "row", "model", "calls", "seconds", "USD"), lines=lines)


def _partitions(statistics: RunStatistics) -> Section:
    return Section(
        "Partitions",
        heads=("partition", "outcome", "rows", "rejected", "published", "calls", "USD", "reason"),
        lines=[
            (
                Name(p.partition, p.partition),
                p.outcome,
                p.rows,
                p.rejected,
                p.out,
                p.calls,
                Figure(f"{p.cost_usd:,.6f}"),
                p.reason,
            )
            for p in statistics.lines
        ],
    )


def _checks(report: Report) -> Section:
    """The checks that rows break, with some of the rows."""
    return Section(
        "Checks that rows break",
        heads=("partition", "check", "severity", "rows", "for example"),
        lines=[
            (Name(c.partition, c.partition), c.name, c.severity, c.rows, ", ".join(c.keys))
            for c in report.checks[:_MOST_CHECKS]
        ],
        note=f"the first {_MOST_CHECKS:,} of {len(report.checks):,}" if len(report.checks) > _MOST_CHECKS else "",
    )
