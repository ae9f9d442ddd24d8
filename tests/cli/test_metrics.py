"""`--metrics`: what a scrape of a command finds is what the run's report says."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.cli.support import Project, Started, eventually
from tests.cli.test_processes import workers_of
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
Figures = dict[tuple[str, ...], float]
MODEL = "openai:test-model"
LINGER = ("--metrics", "127.0.0.1:0", "--metrics-linger", "60s")


def scrape_text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def scrape(url: str) -> Figures:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in parsed(scrape_text(url))
        for sample in family.samples
    }


def total(figures: Figures, name: str, *labels: str) -> float:
    return sum(value for series, value in figures.items() if series[0] == name and set(labels) <= set(series))


def url_of(started: Started) -> str:
    eventually(lambda: "Metrics: http" in started.err, "an address of metrics")
    found = re.search(r"Metrics: (http[^\s\"]+)", started.err)
    assert found is not None
    return found[1]


@contextmanager
def finished(project: Project, *args: str) -> Iterator[tuple[Any, Figures]]:
    """Run to the end of the run, and scrape while the endpoint lingers: the report and the figures."""
    with project.start(*args, "--json", *LINGER) as started:
        url = url_of(started)
        eventually(lambda: started.out.rstrip().endswith("}"), "a report")
        yield json.loads(started.out), scrape(url)


def agrees_with(report: Any, value: Callable[..., float]) -> None:
    """To the unit, in every figure that both have. `value`: of a metric with these labels, summed over the others."""
    for outcome in ("ok", "rejected", "filtered", "pending", "unfinished"):
        assert value("tandem_rows_total", outcome=outcome) == report["rows"][outcome], outcome
    usage = report["usage"]
    assert value("tandem_model_calls_total", outcome="answered") == usage["calls"]
    assert value("tandem_model_calls_total", outcome="unknown") == usage["unknown"]
    for kind in ("input", "output"):
        assert value("tandem_tokens_total", kind=kind) == usage[f"{kind}_tokens"]
    assert value("tandem_cost_usd_total") == pytest.approx(usage["cost_usd"], abs=2e-6)
    for kind, number in report["journal"].items():
        assert value("tandem_journal_hits_total", kind=kind) == number, kind
    for outcome in ("published", "failed", "cancelled"):
        assert value("tandem_partitions_total", outcome=outcome) == report["partitions"][outcome]


def agrees(report: Any, figures: Figures) -> None:
    agrees_with(report, lambda name, **labels: total(figures, name, *(f"{k}={v}" for k, v in labels.items())))


def a_project(folder: Path, server: ModelServer, count: int = 120, **script: Any) -> Project:
    server.script(script)
    project = Project.make(folder, server.env(), count=count, model=MODEL)
    project.spec["limits"] = {"rows_in_flight": 16}
    project.spec["prices"] = {MODEL: {"input": 1.0, "output": 2.0}}
    project.write()
    return project


def test_a_run_with_two_processes_agrees_with_its_report_and_so_does_its_repetition(
    tmp_path: Path, model_server: ModelServer
) -> None:
    faults = [
        {"match": "number 7 ", "action": "error", "status": 500, "times": 2},
        {"match": "number 8 ", "action": "refusal"},
        {"match": "number 9 ", "action": "bad_json", "times": 1},
    ]
    project = a_project(tmp_path, model_server, rules=faults)
    with finished(project, "run", "--processes", "2") as (report, figures):
        agrees(report, figures)
        assert report["usage"]["calls"] >= 120
        assert total(figures, "tandem_model_calls_total", "outcome=failed") == 2
        assert total(figures, "tandem_limit_wait_seconds_count") == report["usage"]["calls"] + 2
        assert total(figures, "tandem_publish_seconds_count") == 3
        assert total(figures, "tandem_stage_rows_total", "stage=triage") == 120
        assert total(figures, "tandem_processes") == total(figures, "tandem_backlog_rows") == 0
        assert total(figures, "temporal_workflow_completed_total") == 4
        assert total(figures, "temporal_activity_execution_latency_seconds_count") > 0
    with finished(project, "run", "--processes", "2", "--reprocess", "all") as (report, figures):
        agrees(report, figures)
        assert report["journal"]["rows_reused"] > 100


def test_figures_grow_while_rows_run_and_never_pass_the_report_when_processes_are_killed(
    tmp_path: Path, model_server: ModelServer
) -> None:
    project = a_project(tmp_path, model_server, 240, latency_ms=300)
    with project.start("run", "--json", "--processes", "2", *LINGER) as started:
        url, kills, seen = url_of(started), 0, []
        while not started.out.rstrip().endswith("}"):
            seen.append(scrape(url))
            if kills < 3 and model_server.stats().answered_ok >= 40 * (kills + 1):
                with suppress(psutil.NoSuchProcess, ValueError):  # all are being replaced
                    one, *_ = workers_of(started.process.pid)
                    one.send_signal(signal.SIGKILL)
                    kills += 1
        seen.append(scrape(url))
        report = json.loads(started.out)
    assert kills == 3
    for before, after in itertools.pairwise(seen):
        back = {s for s in before if s[0].endswith(("_total", "_count", "_bucket")) and after[s] < before[s]}
        assert not back
    usage, last = report["usage"], seen[-1]
    answered = total(last, "tandem_model_calls_total", "outcome=answered")
    # What a process had counted since its last report, a second before, goes with it; a busy machine answers slowly.
    assert usage["calls"] // 4 <= answered <= usage["calls"]
    assert total(last, "tandem_tokens_total", "kind=input") <= usage["input_tokens"]
    assert total(last, "tandem_cost_usd_total") <= usage["cost_usd"] + 2e-6
    assert total(last, "tandem_process_deaths_total", "cause=killed") == 3
    assert total(last, "tandem_rows_total", "outcome=ok") == report["rows"]["ok"] == 240
    assert {total(figures, "tandem_processes") for figures in seen} >= {2.0}
    assert max(total(figures, "tandem_calls_in_flight") for figures in seen) > 0
    assert max(total(figures, "tandem_backlog_rows") for figures in seen) == 240
    assert max(total(figures, "tandem_batches", "state=running") for figures in seen) > 0


def test_an_address_that_cannot_be_served_is_one_sentence_and_nothing_is_begun(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for address, why in (("9464", "not an address"), (f"127.0.0.1:{port}", "in use"), ("no.such.host:1", "not")):
            by_flag = project.tandem("run", f"--metrics={address}")
            for refused in (by_flag, project.tandem("run", TANDEM_METRICS=address)):
                assert refused.code == 2
                assert re.fullmatch(rf"Error: \S+ .*{why}.*\n  → .*\n", refused.err), refused.err
    assert not (tmp_path / "out").exists()


def test_every_command_that_works_serves_metrics_by_its_variable(tmp_path: Path) -> None:
    """Those that only look have no endpoint, so that two of them never want one port."""
    project = Project.make(tmp_path)
    project.env["TANDEM_METRICS"] = "127.0.0.1:0"
    works = (
        ("run",), ("backfill", "--from-date", "2026-11-01", "--to-date", "2026-11-03"), ("runs", "retry"),
        ("runs", "resume"), ("rejects", "retry"), ("demo", "--rows", "3"),
    )  # fmt: skip
    for words in works:
        assert "Metrics: http" in project.tandem(*words).err, words
    for words in (("plan",), ("runs", "list"), ("outputs", "ls")):
        assert "Metrics" not in project.tandem(*words).ok().err, words
    with project.start("dev", "--processes", "2") as dev:
        url = url_of(dev)
        eventually(lambda: "Working on every pipeline" in dev.err, "the server")
        del project.env["TANDEM_METRICS"]
        project.tandem("run", "--reprocess", "all", "--detach").ok()
        eventually(lambda: total(scrape(url), "tandem_partitions_total", "outcome=published") == 3, "a run of another")
        figures = scrape(url)
        assert total(figures, "tandem_rows_total", "outcome=ok") == 30
        assert total(figures, "tandem_processes") == 2
        assert ("tandem_schedule_actions_missed",) in figures
        dev.end(signal.SIGTERM)


def test_the_budget_the_rate_and_a_provider_that_is_down_are_seen_while_it_lasts(
    tmp_path: Path, model_server: ModelServer
) -> None:
    project = a_project(tmp_path, model_server, 90, latency_ms=50)
    project.spec["limits"] = {"rows_in_flight": 8, "requests_per_minute": 600, "max_cost_usd": 1.0}
    project.stage["params"] = {"max_tokens": 200}
    project.write()
    with project.start("run", "--processes", "2", *LINGER) as run:
        url = url_of(run)
        eventually(lambda: total(scrape(url), "tandem_model_calls_total") > 20, "some calls")
        figures = scrape(url)
        assert 0 < total(figures, "tandem_limit_rate") <= total(figures, "tandem_limit_rate_wanted") <= 10
        assert total(figures, "tandem_breaker_open") == 0
        model_server.script({"rules": [{"action": "error", "status": 503}]})
        eventually(lambda: total(scrape(url), "tandem_breaker_open") == 1, "an open breaker")
        eventually(lambda: total(scrape(url), "tandem_batches", "state=waiting") > 0, "batches that wait")
        figures = scrape(url)
        spent = total(figures, "tandem_cost_usd_total")
        assert total(figures, "tandem_budget_used_ratio") == pytest.approx(spent, rel=0.5)
        assert total(figures, "tandem_backlog_rows") > 0
        model_server.script({})
        eventually(lambda: "generation 1" in run.err and run.err.count("✓") == 3, "all partitions")
        eventually(lambda: total(scrape(url), "tandem_breaker_open") == 0, "a closed breaker")


ASKING = """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    body: str
    reply: str


def node(state: State) -> State:
    return {"reply": interrupt({"question": state["body"]})}


building = StateGraph(State)
building.add_node("node", node)
building.add_edge(START, "node")
building.add_edge("node", END)
graph = building.compile()
"""


def test_questions_that_partitions_wait_for_are_counted(tmp_path: Path) -> None:
    """Also by a command that carries on with a run which waits already."""
    (tmp_path / "asking.py").write_text(ASKING)
    project = Project.make(tmp_path, count=6)
    project.spec["stages"] = [{"name": "ask", "uses": "asking:graph", "output": {"reply": "str"}, "pending": "wait"}]
    project.write()
    for _ in range(2):
        with project.start("run", *LINGER) as run:
            url = url_of(run)
            eventually(lambda url=url: total(scrape(url), "tandem_reviews_pending") == 6, "questions")  # type: ignore[misc]
            run.end(signal.SIGKILL)


def test_a_run_that_its_budget_has_stopped_shows_a_used_up_one(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(tmp_path, model_server, 90)
    project.stage["params"] = {"max_tokens": 200}
    project.spec["limits"] = {"rows_in_flight": 8, "max_cost_usd": 0.002}
    project.write()
    with project.start("run", "--wait", "--processes", "2", *LINGER) as run:
        url = url_of(run)
        eventually(lambda: total(scrape(url), "tandem_budget_used_ratio") == 1, "a used-up budget")
        assert 0 < total(scrape(url), "tandem_cost_usd_total") <= 0.002
