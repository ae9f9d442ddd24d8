"""A real Prometheus and a run with two processes: every metric is there, every panel shows data, no alert fires."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from tests.cli.support import Started, eventually
from tests.cli.test_metrics import a_project, agrees_with, scrape_text
from tests.harness.model_server import ModelServer
from tests.infra.checks import INFRA, tool

pytestmark = pytest.mark.timeout(600)
NAMES = {
    "tandem_rows_total": ("outcome",), "tandem_model_calls_total": ("model", "tier", "outcome"),
    "tandem_tokens_total": ("model", "kind"), "tandem_cost_usd_total": ("model", "tier"),
    "tandem_calls_in_flight": (), "tandem_journal_hits_total": ("kind",), "tandem_backlog_rows": (),
    "tandem_limit_wait_seconds_count": (), "tandem_limit_rate": (), "tandem_breaker_open": (),
    "tandem_flush_lag_seconds": (), "tandem_publish_seconds_count": (), "tandem_batches": ("state",),
    "tandem_reviews_pending": (), "tandem_processes": (), "tandem_process_deaths_total": ("cause",),
    "tandem_jobs": ("state",), "temporal_workflow_completed_total": ("namespace", "task_queue", "workflow_type"),
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Prometheus:
    """One that scrapes one target every half second, with our rules."""

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    @contextmanager
    def started(cls, folder: Path, target: str, rules: Path | None = None) -> Iterator[Prometheus]:
        binary = shutil.which("prometheus")
        if binary is None:
            absent = pytest.fail if "CI" in os.environ else pytest.skip
            absent("no Prometheus here; on Debian: apt-get install prometheus")
        config = yaml.safe_load((INFRA / "prometheus/prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(rules or INFRA / "prometheus/tandem.rules.yaml")]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        port = free_port()
        process = subprocess.Popen(
            [str(binary), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'series'}",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
        )  # fmt: skip
        try:
            found = cls(f"http://127.0.0.1:{port}")
            eventually(found.ready, "Prometheus")
            yield found
        finally:
            process.kill()
            process.wait()

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found


def panels() -> list[tuple[str, str]]:
    """Each expression of the dashboard with its panel's title, as Grafana would send it."""
    dashboard = json.loads((INFRA / "grafana/tandem.json").read_text())
    return [
        (panel["title"], target["expr"].replace("$job", ".+").replace("$__rate_interval", "1m"))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def test_a_scraped_run_has_every_metric_fills_every_panel_and_fires_no_alert(
    tmp_path: Path, model_server: ModelServer
) -> None:
    project = a_project(tmp_path, model_server, 400, latency_ms=1_000)  # Prometheus takes seconds to its first scrape
    port = free_port()
    flags = ("--processes", "2", "--metrics", f"127.0.0.1:{port}", "--metrics-linger", "120s")
    with Prometheus.started(tmp_path, f"127.0.0.1:{port}") as prometheus, project.start("run", "--json", *flags) as run:
        report = ended(run)
        rows = 'tandem_rows_total{outcome="ok"}'
        eventually(lambda: [one["value"][1] for one in prometheus.query(rows)] == ["400"], "the last scrape")
        for name, labels in NAMES.items():
            series = prometheus.query(name)
            assert series, name
            assert {frozenset(one["metric"]) for one in series} == {
                frozenset((*labels, "__name__", "job", "instance"))
            }, name
        assert max(float(one[1]) for one in history(prometheus, "tandem_processes")) == 2
        agrees_with(report, lambda name, **labels: value(prometheus, name, **labels))
        for title, expression in panels():
            assert prometheus.query(expression), f"{title}: {expression}"
        check_form(f"http://127.0.0.1:{port}/metrics")
        states = {rule["name"]: rule["state"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
        assert set(states.values()) == {"inactive"}, states


def ended(run: Started) -> Any:
    eventually(lambda: run.out.rstrip().endswith("}"), "a report")
    return json.loads(run.out)


def check_form(url: str) -> None:
    """Neither Prometheus' own linter nor a strict reader of OpenMetrics has a complaint."""
    linted = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=scrape_text(url), capture_output=True, text=True
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")
    strict = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    with urllib.request.urlopen(strict, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert len(list(open_metrics(answer.read().decode()))) > 30  # type: ignore[no-untyped-call]


def value(prometheus: Prometheus, name: str, **labels: str) -> float:
    chosen = ", ".join(f'{label}="{text}"' for label, text in labels.items())
    return sum(float(one["value"][1]) for one in prometheus.query(f"{name}{{{chosen}}}"))


def history(prometheus: Prometheus, name: str) -> list[tuple[float, str]]:
    return [sample for one in prometheus.query(f"{name}[10m]") for sample in one["values"]]


def test_no_panel_asks_for_a_metric_that_does_not_exist() -> None:
    from pipeline.telemetry.metrics.catalogue import METRICS

    known = {metric.name for metric in METRICS}
    for title, expression in panels():
        for name in re.findall(r"\btandem_\w+", expression):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in known, title
