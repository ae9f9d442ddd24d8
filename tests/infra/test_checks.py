"""The checks of `infra/` find what is wrong, and nothing is left out of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.infra.checks import CHECKS, INFRA, ToolAbsent, complaints

_BY_HAND = {
    "README.md",
    "seaweedfs.json",  # a store's own, and the tests start a store with its like
    "temporal.yaml",
    "grafana/provisioning/datasources/tandem.yaml",
    "grafana/provisioning/dashboards/tandem.yaml",
}


def found_in(folder: Path) -> list[str]:
    try:
        return list(complaints(folder))
    except ToolAbsent as exc:
        if "CI" in os.environ:
            raise
        pytest.skip(str(exc))


def test_every_file_is_checked() -> None:
    files = {str(path.relative_to(INFRA)) for path in INFRA.rglob("*") if path.is_file()}
    assert files == CHECKS.keys() | _BY_HAND


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("prometheus/prometheus.yaml", "scrape_interval", "scrape_intervall"),
        ("prometheus/tandem.rules.yaml", "sum by (job) (tandem_backlog_rows)", "sum by (job (tandem_backlog_rows)"),
        ("prometheus/tandem.rules.yaml", ">= 0.8", ">= 0.9"),
        ("prometheus/tandem.rules.yaml", "unless sum by (job) (tandem_reviews_pending) > 0", ""),
        ("grafana/tandem.json", '"legendFormat"', '"legend_format"'),
        ("grafana/tandem.json", '"gridPos"', '"gridPosition"'),
        ("grafana/tandem.json", '"w": 8', '"w": 9'),
        ("prometheus/compose.yaml", "dns_sd_configs", "dns_sd_config"),
        ("collector.yaml", "exporters: [otlp/jaeger]", "exporters: [otlp/jaguar]"),
        ("compose.yaml", "restart:", "restarts:"),
        ("Dockerfile", "WORKDIR /build", "WORKDIR build"),
    ],
)
def test_a_fault_is_found(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    infra = tmp_path / "infra"
    shutil.copytree(INFRA, infra)
    file = infra / name
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, wrong))
    assert any(line.startswith("infra/") for line in found_in(infra))


def test_what_watches_a_composed_worker_is_where_the_worker_sends_to() -> None:
    """What no tool at hand checks: addresses that files name of one another."""
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    environment = compose["worker"]["environment"]
    collector = yaml.safe_load((INFRA / "collector.yaml").read_text())
    receiving = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == receiving.replace("0.0.0.0", "http://collector")
    (scrape,) = yaml.safe_load((INFRA / "prometheus/compose.yaml").read_text())["scrape_configs"]
    (found,) = scrape["dns_sd_configs"]
    assert (found["names"], f"0.0.0.0:{found['port']}") == (["worker"], environment["TANDEM_METRICS"])
    provisioned = yaml.safe_load((INFRA / "grafana/provisioning/datasources/tandem.yaml").read_text())["datasources"]
    assert {one["url"].split(":")[1].strip("/") for one in provisioned} <= compose.keys()
    (boards,) = yaml.safe_load((INFRA / "grafana/provisioning/dashboards/tandem.yaml").read_text())["providers"]
    assert any(volume.split(":")[1].startswith(boards["options"]["path"]) for volume in compose["grafana"]["volumes"])
    mounted = [volume.split(":")[0] for one in compose.values() for volume in one.get("volumes", ())]
    assert all((INFRA / path).exists() for path in mounted if path.startswith("."))


def test_each_alert_is_tried_in_its_fault_and_in_a_healthy_run() -> None:
    rules = yaml.safe_load((INFRA / "prometheus/tandem.rules.yaml").read_text())
    tests = yaml.safe_load((INFRA / "prometheus/tandem.rules.test.yaml").read_text())["tests"]
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tried = [(one["alertname"], bool(one.get("exp_alerts"))) for test in tests for one in test["alert_rule_test"]]
    healthy = {one["alertname"] for one in tests[0]["alert_rule_test"] if not one.get("exp_alerts")}
    assert {name for name, fires in tried if fires} == names == healthy
