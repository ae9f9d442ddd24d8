"""The story of a run as one HTML file: no script, no other host, plots as inline SVG."""

import datetime as dt
from collections.abc import Sequence
from html import escape

from pipeline.runs.report import Report
from pipeline.runs.statistics import RunStatistics

_WIDTH, _HEIGHT, _BASE = 640, 160, 130
_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.state{font-weight:600}
.completed{color:#15803d}.failed{color:#b91c1c}.cancelled,.paused{color:#a16207}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1rem 0}
.fact{border:1px solid #8884;border-radius:.5rem;padding:.5rem .75rem}.fact b{display:block;font-size:1.25rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #8883;vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap}svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:currentColor}
rect{fill:#2563eb}rect.money{fill:#ca8a04}rect.bad{fill:#dc2626}
.note{opacity:.75}code{overflow-wrap:anywhere}
"""


def page(report: Report, story: RunStatistics) -> str:
    """The whole document."""
    title = f"{report.pipeline}: {report.run}"
    parts = [_head(report), _facts(report)]
    if report.stop is not None:
        parts.append(f"<p class=failed>{escape(report.stop.error)}: {escape(report.stop.message)}</p>")
    parts += [_over_time(story), _latency(story), _rejects(story), _rows(story), _partitions(story)]
    if not story.whole:
        parts.append("<p class=note>The run is large: only its first partitions and records are told here.</p>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _head(report: Report) -> str:
    ended = f" to {_time(report.finished_at)}" if report.finished_at else ""
    return (
        f"<h1>{escape(report.pipeline)} / {escape(report.run)}</h1>"
        f'<p><span class="state {report.state}">{report.state}</span> · {_time(report.started_at)}{ended} · '
        f"<code>{escape(report.sink)}</code></p>"
    )


def _facts(report: Report) -> str:
    totals = report.totals
    said = [
        ("partitions published", f"{totals.published:,} of {totals.total:,}"),
        ("rows in", f"{totals.counts.rows_in:,}"),
        ("rejected", f"{totals.counts.rejected:,}"),
        ("calls paid", f"{totals.usage.calls:,}"),
        ("cost", f"{totals.usage.cost_usd:,.4f} USD"),
        ("rows not paid again", f"{totals.reuse.rows_reused + totals.reuse.rows_shared:,}"),
    ]
    cells = "".join(f"<div class=fact><b>{value}</b>{name}</div>" for name, value in said)
    return f"<div class=facts>{cells}</div>"


def _over_time(story: RunStatistics) -> str:
    if not story.moments:
        return ""
    ends = (f"{_time(story.moments[0].at)}", f"{_time(story.moments[-1].at)}")
    each = f"each bar is {story.moments[0].seconds:g} s"
    rows = [
        (moment.rows, f"{_time(moment.at)}: {moment.rows:,} rows, {moment.calls:,} calls") for moment in story.moments
    ]
    plots = _section("Rows over time", _bars(rows, ends, "rows over time"), each)
    if any(moment.cost_usd for moment in story.moments):
        cost = [(m.cost_usd, f"{_time(m.at)}: {m.cost_usd:.4f} USD") for m in story.moments]
        plots += _section("Cost over time", _bars(cost, ends, "cost over time", kind="money", unit=" USD"), each)
    return plots


def _latency(story: RunStatistics) -> str:
    if not story.latency:
        return ""
    bars = [(bar.calls, f"{bar.least_ms:,.0f} to {bar.most_ms:,.0f} ms: {bar.calls:,} calls") for bar in story.latency]
    ends = (f"{story.latency[0].least_ms:,.0f} ms", f"{story.latency[-1].most_ms:,.0f} ms")
    said = ", ".join(f"{name} {value:,.0f} ms" for name, value in story.percentiles_ms.items())
    return _section("Latency of calls", _bars(bars, ends, "latency of calls"), f"{said}; the axis is logarithmic")


def _rejects(story: RunStatistics) -> str:
    if not story.errors:
        return ""
    bars = [(found.rows, f"{found.stage}: {found.error}: {found.rows:,} rows") for found in story.errors]
    names = (story.errors[0].error, story.errors[-1].error if len(story.errors) > 1 else "")
    table = _table(
        ("stage", "error", "rows", "for example"),
        [(e.stage, e.error, e.rows, f"{e.key}: {e.message}" if e.key else e.message) for e in story.errors],
    )
    return _section("Rejects by class", _bars(bars, names, "rejects by class", kind="bad") + table)


def _rows(story: RunStatistics) -> str:
    heads = ("partition", "row", "model", "calls", "seconds", "USD")
    out = ""
    for title, rows in (("Slowest rows", story.slowest), ("Dearest rows", story.dearest)):
        lines = [(r.partition, r.row, r.model, r.calls, f"{r.ms / 1000:,.2f}", f"{r.cost_usd:,.6f}") for r in rows]
        out += _section(title, _table(heads, lines)) if lines else ""
    return out


def _partitions(story: RunStatistics) -> str:
    heads = ("partition", "outcome", "rows", "rejected", "published", "calls", "USD", "reason")
    lines = [
        (p.partition, p.outcome, p.rows, p.rejected, p.out, p.calls, f"{p.cost_usd:,.6f}", p.reason)
        for p in story.lines
    ]
    return _section("Partitions", _table(heads, lines)) if lines else ""


# Parts -------------------------------------------------------------------------------------------------------------


def _section(title: str, content: str, note: str = "") -> str:
    said = f"<p class=note>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{content}{said}</section>"


def _bars(
    values: Sequence[tuple[float, str]], ends: tuple[str, str], label: str, *, kind: str = "", unit: str = ""
) -> str:
    """A bar a value, with its words as a tooltip; the greatest value and both ends of the axis are written."""
    most = max((value for value, _ in values), default=0) or 1
    width = _WIDTH / max(len(values), 1)
    drawn = []
    for at, (value, words) in enumerate(values):
        height = max(value / most * (_BASE - 20), 1 if value else 0)
        drawn.append(
            f'<rect class="{kind}" x="{at * width:.2f}" y="{_BASE - height:.2f}" '
            f'width="{max(min(width, 80) - 1, 0.5):.2f}" height="{height:.2f}"><title>{escape(words)}</title></rect>'
        )
    top = f"{most:,.4f}".rstrip("0").rstrip(".") + unit
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(drawn)}'
        f'<text x="0" y="12">{escape(top)}</text><text x="0" y="{_HEIGHT - 10}">{escape(ends[0])}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 10}" text-anchor="end">{escape(ends[1])}</text></svg>'
    )


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        if isinstance(value, int):
            return f"<td class=n>{value:,}</td>"
        return f"<td>{escape(str(value))}</td>"

    head = "".join(
        f"<th{' class=n' * isinstance(value, int)}>{escape(name)}</th>"
        for name, value in zip(heads, lines[0], strict=True)
    )
    body = "".join(f"<tr>{''.join(cell(value) for value in line)}</tr>" for line in lines)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _time(when: dt.datetime | None) -> str:
    return when.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if when is not None else ""
