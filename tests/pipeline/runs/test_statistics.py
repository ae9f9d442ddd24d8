"""What a run's story tells, and its page in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.journal import record_frames
from pipeline.runs.progress import live_report
from pipeline.runs.requests import load_request
from pipeline.runs.statistics.calls import CallSummary
from pipeline.runs.statistics.document import RunStatistics
from pipeline.runs.statistics.totals import partition_lines
from schemas import ids
from stages.journal.records import CallRecord, RowRecord
from tests.cli.support import Project
from tests.harness.model_server import ModelServer
from tests.pipeline.jobs import Bench, rows

_MEASURE = """<script>addEventListener("load", () => {
  const plots = [...document.querySelectorAll("svg")].map(svg => [
    svg.getAttribute("aria-label"), svg.getBoundingClientRect().width, svg.getBoundingClientRect().height,
    Math.max(...[...svg.querySelectorAll("rect")].map(bar => bar.getBoundingClientRect().height)),
    [...svg.querySelectorAll("rect")].length]);
  document.title = JSON.stringify({plots, wide: document.documentElement.scrollWidth > innerWidth,
    requests: performance.getEntriesByType("resource").length,
    hidden: document.querySelectorAll("b.injected").length,
    sections: [...document.querySelectorAll("h2")].map(head => head.textContent),
    lines: document.querySelectorAll("section:last-of-type tbody tr").length});
});</script>"""


def call(row: str, nonce: str, *, at: float, ms: int = 100, cost: float | None = 0.01, run: str = "r") -> CallRecord:
    return CallRecord(f"q{nonce}", 0, row, "openai:m", "{}", None, {}, cost, None, ms, run, 0, at, nonce)


def test_calls_are_counted_once_by_when_how_long_and_how_dear() -> None:
    seen = CallSummary()
    records = [call(f"row{n}", f"{n:032x}", at=1000 + n, ms=100 + 10 * n, cost=n / 1000) for n in range(100)]
    again = [*records, records[0]]  # while it is being merged, a record may be read twice
    answers = [RowRecord("s", f"f{n}", f"row{n}", "ok", "{}", None, (), "r", 1000.5 + n) for n in range(100)]
    late = call("row7", "f" * 32, at=1050, ms=5000, cost=None)
    for some in (again, [*answers, answers[0]], [late, late]):
        seen.add(record_frames.of_records(some).with_columns(partition=pl.lit("day=1")))
    moments = list(seen.moments())
    assert sum(moment.calls for moment in moments) == 101
    assert sum(moment.rows for moment in moments) == 100
    assert sum(moment.cost_usd for moment in moments) == pytest.approx(sum(n / 1000 for n in range(100)))
    assert len(moments) <= 60
    assert sum(bar.calls for bar in seen.bars()) == 101
    assert seen.percentile(0.5) == pytest.approx(600, rel=0.06)
    slowest = seen.slowest[0]
    assert (slowest.partition, slowest.row, slowest.calls, slowest.ms) == ("day=1", "row7", 2, 5170)
    assert slowest.cost_usd == pytest.approx(0.007)
    assert seen.dearest[0].row == "row99"
    assert len(seen.slowest) <= 20, "a few rows are told, however many there are"
    (used,) = seen.models()
    assert (used.model, used.calls) == ("openai:m", 101)
    assert used.cost_usd == pytest.approx(4.95)


def test_what_did_not_happen_in_the_run_is_not_counted() -> None:
    seen = CallSummary()
    told = call("row1", "a" * 32, at=1000)
    unknown = replace(told, nonce="b" * 32, raw=None)
    carried = replace(told, nonce="c" * 32, carried=True)
    of_job = replace(told, nonce="d" * 32, latency_ms=3_600_000, by={"job": "batch_1", "stage": "s", "tier": "batch"})
    tool = replace(told, nonce="e" * 32, model="tool:search")
    seen.add(record_frames.of_records([told, unknown, carried, of_job, tool]).with_columns(partition=pl.lit("day=1")))
    assert seen.calls[1000] == 3
    assert sum(bar.calls for bar in seen.bars()) == 2, "a provider batch job says nothing of the time of a call"
    assert [(one.model, one.tier, one.stage) for one in seen.models()] == [
        ("openai:m", "", ""), ("openai:m", "batch", "s"),
    ]  # fmt: skip


def test_equal_rows_of_two_partitions_are_two() -> None:
    seen = CallSummary()
    answer = record_frames.of_records([RowRecord("s", "f", "row", "ok", "{}", None, (), "r", 1000.0)])
    seen.add(pl.concat(answer.with_columns(partition=pl.lit(day)) for day in ("day=1", "day=2", "day=1")))
    assert seen.rows[1000] == 2


def test_a_run_without_calls_has_a_story() -> None:
    seen = CallSummary()
    assert (list(seen.moments()), list(seen.bars()), RunStatistics().lines) == ([], [], ())


async def test_of_a_run_that_has_not_ended_it_is_told_which_partitions_are_at_work(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(4), "a.parquet")
    bench.write(rows(2, day="2026-11-02"), "b.parquet")
    job = bench.job(source={"path": "*.parquet"}, partition={"by": "files"})
    plan = bench.plan(job)
    opened = bench.open(job, plan, "file=a.parquet")
    assert opened is not None
    await bench.enrich(job, plan, opened)
    request = load_request(bench.store, plan.run)
    assert request is not None
    report = live_report(bench.store, request)
    told = {line.partition: (line.outcome, line.calls) for line in partition_lines(bench.store, report, [])}
    assert told == {"file=a.parquet": ("running", 4), "file=b.parquet": ("not_begun", 0)}
    paused = report.model_copy(update={"state": "paused"})
    assert [line.outcome for line in partition_lines(bench.store, paused, [])] == ["paused", "not_begun"]


@pytest.fixture
def ended(tmp_path: Path, model_server: ModelServer) -> Project:
    """A run of which a partition fails, two rows are rejected, and one has a name that is no name."""
    model_server.script(
        {"rules": [{"match": "message number 1 ", "action": "error", "status": 400},
                   {"match": "message number 4 ", "action": "error", "status": 400,
                    "body": {"error": {"message": "<b class=injected>no</b>"}}}],
         "latency_ms": 5}
    )  # fmt: skip
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    project.spec["prices"] = {"openai:test-model": {"input": 10, "output": 20}}
    project.write()
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    (tmp_path / "rows.csv").write_text("\n".join([*lines, lines[1]]) + "\n")  # the first day has a key twice
    assert project.tandem("run", "--name", "told").code == 1
    return project


def test_runs_show_tells_what_happened_and_a_browser_shows_it(ended: Project) -> None:
    shown = ended.tandem("runs", "show").ok().out
    first, *_ = [line for line in shown.splitlines() if line.startswith("day=")]
    assert first.startswith("day=2026-11-01  failed"), "what went wrong is on top"
    assert "DuplicateKeys" in first
    assert re.search(r"day=2026-11-02  published +10 +2 +8 +8", shown), shown
    assert re.search(r"Timeline: 18 calls from .* UTC, over .*; p50 \d+ ms, p90 \d+ ms, p99 \d+ ms", shown)
    assert shown.count(" row ") >= 6
    assert "Rejected: 2 × triage: bad_request: " in shown
    assert "(for example id=" in shown
    page = ended.folder / "out" / ids.report_page("told")
    assert f"In a browser: {page}" in shown
    assert "Slowest rows" in page.read_text()


def test_the_page_is_whole_in_a_real_browser(ended: Project) -> None:
    found = _in_browser(ended.folder / "out" / ids.report_page("told"), ended.folder)
    assert [plot[0] for plot in found["plots"]] == [
        "rows over time", "cost over time", "latency of calls", "rejects by class",
    ]  # fmt: skip
    for label, width, height, tallest, bars in found["plots"]:
        assert width > 300, label
        assert height > 60, label
        assert height > tallest > 20, f"{label}: its greatest value is seen"
        assert bars >= 1, label
    assert found["requests"] == 0, "nothing is fetched from anywhere"
    assert not found["wide"]
    assert found["hidden"] == 0, "what a provider said is text, not markup"
    assert found["sections"][-1] == "Partitions"
    assert found["lines"] == 3


def _in_browser(page: Path, folder: Path) -> Any:
    """What Chromium measures of a page, by a script that only the test adds."""
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not browser:
        absent = pytest.fail if "CI" in os.environ else pytest.skip
        absent("no Chromium here; on Debian: apt-get install chromium")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    measured = folder / "measured.html"
    measured.write_text(text.replace("</head>", f"{_MEASURE}</head>"))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,1400",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", measured.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title is not None, done.stdout[:500]
    return json.loads(unescape(title[1]))
