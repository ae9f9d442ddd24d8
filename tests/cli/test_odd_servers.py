"""Servers that refuse a parameter, a stage, or everything: how a whole run ends, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
CASES = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[1] / "cases" / "answers.json").read_text())["cases"]
}


def case(name: str, **more: Any) -> dict[str, Any]:
    served = {key: CASES[name][key] for key in ("status", "headers", "body") if key in CASES[name]}
    return {"action": "error", **served, **more}


def project_of(folder: Path, server: ModelServer, count: int = 60, **stage: Any) -> Project:
    project = Project.make(folder, server.env(), model="openai:test-model", count=count)
    project.stage.update(stage)
    project.spec["limits"] = {"rows_in_flight": 16}
    project.write()
    return project


def test_a_cap_that_goes_by_another_name_costs_a_few_refusals_and_no_row(
    tmp_path: Path, model_server: ModelServer
) -> None:
    model_server.script({"rules": [case("refuses_max_tokens", sends="max_tokens")]})
    report = project_of(tmp_path, model_server, params={"max_tokens": 300}).tandem("run", "--json").ok().json
    assert report["rows"]["ok"] == report["rows"]["out"] == 60
    assert model_server.stats().by_status[400] <= 16
    assert report["usage"]["calls"] == 60


@pytest.mark.parametrize(
    ("rule", "params", "names"),
    [
        (case("refuses_temperature", sends="temperature"), {"temperature": 0}, ("temperature", "triage")),
        (case("error_text_in_200"), {}, ("base URL", "http://127.0.0.1", "triage")),
        ({"action": "error", "status": 302}, {}, ("base URL", "http://127.0.0.1", "triage")),
        ({"action": "error", "status": 422, "body": {"detail": "tools are odd"}}, {}, ("tools are odd", "triage")),
    ],
    ids=["parameter", "endpoint", "redirect", "everything"],
)
def test_what_every_row_would_meet_stops_the_run_and_rejects_none(
    tmp_path: Path, model_server: ModelServer, rule: dict[str, Any], params: dict[str, Any], names: tuple[str, ...]
) -> None:
    model_server.script({"rules": [rule]})
    done = project_of(tmp_path, model_server, params=params).tandem("run", "--json")
    assert done.code == 3, done
    report = done.json
    said = json.dumps(report) + done.err
    assert all(name in said for name in names), said
    assert report["rows"]["rejected"] == 0
    assert model_server.stats().requests <= 20 + 3 * 16


def test_a_burst_of_refusals_at_the_start_costs_eight_requests_and_no_row(
    tmp_path: Path, model_server: ModelServer
) -> None:
    """How long it takes is a matter of `tests/stages/limits`, whose clock is virtual."""
    model_server.script({"latency_ms": 10, "rules": [case("burst_of_eight", times=8)]})
    report = project_of(tmp_path, model_server, count=400).tandem("run", "--json").ok().json
    assert report["rows"]["out"] == 400
    assert model_server.stats().by_status == {200: 400, 429: 8}
