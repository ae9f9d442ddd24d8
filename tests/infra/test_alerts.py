"""Each alert in a fault of its own: a run that works, or does not, a real Prometheus, and our rules in seconds.

The rules wait for minutes and look back for hours; here each minute is a second, and nothing else is changed. What the
rules do over their full time is in `tandem.rules.test.yaml`.
"""

from __future__ import annotations

import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.support import Project, Started, eventually
from tests.cli.test_metrics import a_project
from tests.cli.test_processes import workers_of
from tests.harness.fault_proxy import FaultProxy
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3
from tests.infra.checks import INFRA
from tests.infra.test_prometheus import Prometheus, free_port

pytestmark = pytest.mark.timeout(600)
_SCALE = {"m": 1, "h": 60}  # seconds for each of these
_LAG_S = 60  # of the rule about the journal, a threshold in seconds


def rules_in_seconds(folder: Path) -> Path:
    """Write our rules with a second for each minute."""
    text = (INFRA / "prometheus/tandem.rules.yaml").read_text()
    text = re.sub(r"(\[|for: )(\d+)([mh])", lambda found: f"{found[1]}{int(found[2]) * _SCALE[found[3]]}s", text)
    text = text.replace(f"tandem_flush_lag_seconds) > {_LAG_S}", f"tandem_flush_lag_seconds) > {_LAG_S // 60}")
    path = folder / "rules.yaml"
    path.write_text(text)
    return path


@contextmanager
def watched(project: Project, *args: str) -> Iterator[tuple[Started, Prometheus]]:
    """Start a command that Prometheus scrapes from its beginning."""
    port = free_port()
    rules = rules_in_seconds(project.folder)
    flags = ("--metrics", f"127.0.0.1:{port}", "--metrics-linger", "60s")
    with (
        Prometheus.started(project.folder, f"127.0.0.1:{port}", rules) as prometheus,
        project.start(*args, *flags) as started,
    ):
        yield started, prometheus


def firing(prometheus: Prometheus) -> set[str]:
    return {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"] if alert["state"] == "firing"}


def fires(prometheus: Prometheus, name: str) -> None:
    eventually(lambda: name in firing(prometheus), f"{name}, not {firing(prometheus)}", 90)


def test_rows_that_are_rejected_and_partitions_that_fail(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(
        tmp_path, model_server, 300, latency_ms=150, rules=[{"match": "1", "action": "error", "status": 400}]
    )
    project.spec["limits"] |= {"max_reject_rate": 0.05}
    project.write()
    with watched(project, "run") as (_, prometheus):
        fires(prometheus, "TandemManyRejects")
        fires(prometheus, "TandemPartitionsFail")
        assert not firing(prometheus) & {"TandemProviderDown", "TandemStandsStill", "TandemWorkerDiesRepeatedly"}


@pytest.mark.prove
def test_a_provider_that_never_answers(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(tmp_path, model_server, 60, latency_ms=3_600_000)
    project.spec["limits"] |= {"call_timeout": "1h"}
    project.write()
    with watched(project, "run") as (_, prometheus):
        fires(prometheus, "TandemStandsStill")
        assert firing(prometheus) == {"TandemStandsStill"}


@pytest.mark.prove
def test_a_provider_that_is_down(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(tmp_path, model_server, 200, latency_ms=200)
    with watched(project, "run") as (_, prometheus):
        eventually(lambda: model_server.stats().answered_ok > 20, "some calls")
        model_server.script({"rules": [{"action": "error", "status": 503}]})
        fires(prometheus, "TandemProviderDown")


@pytest.mark.prove
def test_a_budget_that_is_nearly_used(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(tmp_path, model_server, 90)
    project.stage["params"] = {"max_tokens": 200}
    project.spec["limits"] = {"rows_in_flight": 8, "max_cost_usd": 0.002}
    project.write()
    with watched(project, "run", "--wait") as (_, prometheus):
        fires(prometheus, "TandemBudgetNearlyUsed")


@pytest.mark.prove
def test_a_limit_far_below_what_the_spec_wants(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(tmp_path, model_server, 600, latency_ms=50)
    project.spec["limits"] = {"rows_in_flight": 32, "requests_per_minute": 6_000}
    project.write()
    with watched(project, "run") as (_, prometheus):
        eventually(lambda: model_server.stats().answered_ok > 20, "some calls")
        model_server.script({"latency_ms": 50, "limits": {"requests_per_minute": 120}})
        fires(prometheus, "TandemLimitFarBelowWanted")


@pytest.mark.prove
def test_processes_that_die_again_and_again(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(tmp_path, model_server, 400, latency_ms=2_000)
    with watched(project, "run", "--processes", "2") as (run, prometheus):
        for _ in range(6):
            before = {child.pid for child in workers_of(run.process.pid)}
            eventually(lambda: len(workers_of(run.process.pid)) == 2, "two processes")
            workers_of(run.process.pid)[0].kill()
            eventually(lambda before=before: _others(run, before), "another process")  # type: ignore[misc]
        fires(prometheus, "TandemWorkerDiesRepeatedly")


def _others(run: Started, before: set[int]) -> bool:
    return bool({child.pid for child in workers_of(run.process.pid)} - before)


@pytest.mark.prove
def test_a_store_that_takes_no_answers(tmp_path: Path, model_server: ModelServer, seaweed: SeaweedS3) -> None:
    project = a_project(tmp_path, model_server, 400, latency_ms=500)
    project.spec["sink"]["path"] = f"s3://{seaweed.bucket(f'alerts-{uuid.uuid4().hex[:8]}')}/out"
    project.write()
    with FaultProxy.start(seaweed.port) as proxy:
        project.env |= {**seaweed.env(), "AWS_ENDPOINT_URL": proxy.url}
        with watched(project, "run") as (_, prometheus):
            eventually(lambda: model_server.stats().answered_ok > 20, "some calls")
            proxy.set(error={"method": "PUT", "path": "_tandem/journal", "rate": 1.0, "status": 503})
            fires(prometheus, "TandemJournalBehind")


@pytest.mark.prove
def test_a_schedule_whose_run_was_never_begun(tmp_path: Path, model_server: ModelServer) -> None:
    """The server is away at a minute's turn, and for longer than the catch-up window."""
    project = a_project(tmp_path, model_server, 6)
    with watched(project, "dev") as (dev, prometheus):
        eventually(lambda: "Temporal" in dev.err + dev.out, "a server")
        project.tandem("schedule", "apply", "--cron", "* * * * *", "--catchup-window", "10s").ok()
        eventually(lambda: bool(prometheus.query("tandem_schedule_actions_missed")), "a schedule", 60)
        address = prometheus.query("tandem_schedule_actions_missed")[0]["metric"]["instance"]
        dev.end(signal.SIGTERM)
        _wait_past_a_minute()
        with project.start("dev", "--metrics", address):
            fires(prometheus, "TandemScheduleMissed")


def _wait_past_a_minute() -> None:
    left = 60 - time.time() % 60
    time.sleep(left + 15)


def test_every_alert_has_a_fault_here() -> None:
    rules = yaml.safe_load((INFRA / "prometheus/tandem.rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tried = set(re.findall(r'fires\(prometheus, "(\w+)"\)', Path(__file__).read_text()))
    assert tried == alerts


def test_the_rules_in_seconds_are_ours(tmp_path: Path) -> None:
    """Only times differ."""
    plain: Callable[[str], Any] = lambda text: re.sub(r"(\[|for: )\d+[smh]|> \d+$", r"\1", text, flags=re.M)  # noqa: E731
    ours = (INFRA / "prometheus/tandem.rules.yaml").read_text()
    assert plain(rules_in_seconds(tmp_path).read_text()) == plain(ours)
