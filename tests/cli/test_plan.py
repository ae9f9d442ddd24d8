"""`tandem plan`: what would run, why, and what it would ask; the command spends nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import DAYS, Project, eventually, rows, write_csv
from tests.cli.test_run import check_report
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
ESTIMATES = ["calls", "input_tokens", "output_tokens", "cost_usd", "seconds"]


def check_plan(plan: Any) -> Any:
    """Exactly the promised keys; every range in order."""
    assert list(plan) in (["partitions", "estimate"], ["partitions", "estimate", "answered_by"])
    for line in plan["partitions"]:
        assert list(line) == ["partition", "decision", "reason", "rows"]
        assert list(line["rows"]) == ["new", "changed", "unchanged", "removed"]
        assert line["decision"] in ("run", "skip")
    estimate = {name: found for name, found in plan["estimate"].items() if name != "tiers"}  # of models that have some
    assert list(estimate) == ESTIMATES
    for name, (low, high) in estimate.items():
        unpriced = name == "cost_usd" and low is high is None
        assert unpriced or 0 <= low <= high, name
    return plan


def test_a_plan_says_what_run_does(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    first = project.tandem("plan", "--json", "--detailed-exitcode")
    assert first.code == 2
    plan = check_plan(first.json)
    assert [(line["partition"], line["decision"], line["reason"]) for line in plan["partitions"]] == [
        (day, "run", "never published") for day in DAYS
    ]
    assert plan["estimate"]["calls"] == [30, 30]
    assert project.published() == [], "it publishes nothing"
    assert not (tmp_path / ".home" / "temporal.db").exists(), "it starts no server"
    assert project.tandem("plan").ok().out.splitlines()[:2] == [
        "tickets: 3 of 3 partitions to run, 30 rows.",
        "  run  day=2026-11-01 … day=2026-11-03 (3): never published",
    ]
    assert project.tandem("run", "--json").ok().json["usage"]["calls"] == 30

    nothing = project.tandem("plan", "--json", "--detailed-exitcode").ok()
    assert {line["reason"] for line in check_plan(nothing.json)["partitions"]} == {"up to date"}
    assert nothing.json["estimate"] == {name: [0, 0] for name in ESTIMATES}

    table = rows(32)
    table[3]["body"] = "another text"
    write_csv(tmp_path / "rows.csv", table)
    moved = check_plan(project.tandem("plan", "--json").ok().json)
    assert [line["reason"] for line in moved["partitions"]] == [
        "input changed: 1 row new, 1 changed", "input changed: 1 row new", "up to date",
    ]  # fmt: skip
    ran = project.tandem("run")
    assert "day=2026-11-01 … day=2026-11-02 (2): input changed: 2 rows new, 1 changed" in ran.ok().err
    assert "Paid: 3 calls" in ran.out
    assert moved["estimate"]["calls"] == [3, 3]

    project.stage["prompt"] = "In short: {{ body }}"
    project.write()
    said = project.tandem("plan", "--partition", DAYS[1]).ok().out
    assert "1 of 1 partition to run, 11 rows" in said
    assert "run  day=2026-11-02: prompt of `triage` changed" in said
    assert "11 calls, free" in said


def test_what_cannot_be_planned_is_an_error_of_its_own(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    wrong = project.tandem("plan", "--from-date", "2027-01-01", "--json")
    assert (wrong.code, wrong.json["error"]["code"]) == (2, "UsageError")
    detailed = project.tandem("plan", "--from-date", "2027-01-01", "--detailed-exitcode")
    assert detailed.code == 1, "2 would mean that there is something to do"
    assert "No partition lies between" in detailed.err


def test_a_plan_that_was_written_down_is_done_just_so_or_not_at_all(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.tandem("plan", "--to-date", "2026-11-02", "--out", "first.json").ok()
    ran = check_report(project.tandem("run", "--plan", "first.json", "--name", "first", "--json").ok().json)
    assert (ran["partitions"]["total"], ran["partitions"]["published"], ran["usage"]["calls"]) == (2, 2, 20)
    assert project.tandem("run", "--plan", "first.json", "--name", "first", "--json").ok().json == ran

    def refused(*args: str) -> str:
        result = project.tandem("run", *args, "--json")
        assert result.code == 2, result
        error = result.json["error"]
        return f"{error['code']}: {error['message']}"

    done = check_report(project.tandem("run", "--plan", "first.json", "--json").ok().json)
    assert (done["partitions"]["unchanged"], done["usage"]["calls"]) == (2, 0), "a plan that was done is done"

    project.tandem("plan", "--out", "all.json").ok()
    project.tandem("run", "--name", "other").ok()
    assert refused("--plan", "all.json") == (
        "PlanOutdated: The plan is no longer valid: day=2026-11-03: run 'other' published it."
    )
    project.tandem("plan", "--out", "all.json").ok()
    table = rows(31)
    write_csv(tmp_path / "rows.csv", table)
    assert "day=2026-11-01: its input has changed" in refused("--plan", "all.json")
    table.append({**table[0], "id": 99, "created_at": "2026-11-09T00:00:00"})
    write_csv(tmp_path / "rows.csv", table)
    assert "day=2026-11-09 is new" in refused("--plan", "all.json")
    write_csv(tmp_path / "rows.csv", rows(30))
    project.stage["prompt"] = "In short: {{ body }}"
    project.write()
    assert "the spec has changed" in refused("--plan", "all.json")
    assert "cannot be combined with selectors" in refused("--plan", "all.json", "--last", "3d")
    assert "not a plan" in refused("--plan", "tandem.yaml")
    assert "No such file" in refused("--plan", "none.json")
    assert project.tandem("plan", "--out", "no/such/folder.json").code == 2


def test_a_killed_run_of_a_plan_is_carried_on(tmp_path: Path, model_server: ModelServer) -> None:
    """What it published itself is no reason to refuse."""
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    model_server.script({"rules": [{"match": "message number 2 ", "action": "hang"}]})
    project.tandem("plan", "--out", "plan.json").ok()
    with project.start("run", "--plan", "plan.json", "--json") as first:
        eventually(lambda: len(list(tmp_path.glob("out/_tandem/commits/*/*.json"))) == 2, "two are published")
        first.end(signal.SIGKILL)
    model_server.script({})
    ran = check_report(project.tandem("run", "--plan", "plan.json", "--json").ok().json)
    assert ran["partitions"]["published"] == ran["partitions"]["total"] == 3
    assert ran["usage"]["calls"] == 30


def test_files_that_wait_are_named_by_plan_run_and_show(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.spec["source"] |= {"path": "*.csv", "done": "*.ok"}
    project.write()
    refused = project.tandem("run", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "SourceError")
    assert "no file is ready: rows.csv waits for its marker rows.ok or rows.csv.ok" in refused.json["error"]["message"]
    (tmp_path / "rows.ok").touch()
    write_csv(tmp_path / "more.csv", rows(3, first=100))
    plan = project.tandem("plan", "--json").ok().json
    assert list(plan) == ["partitions", "estimate", "waiting"]
    assert plan["waiting"] == [{"file": "more.csv", "reason": "waits for its marker more.ok or more.csv.ok"}]
    left = "more.csv waits for its marker more.ok or more.csv.ok."
    assert f"1 file left to a later run: {left}" in project.tandem("plan").ok().out
    ran = project.tandem("run").ok()
    assert f"1 file left to a later run: {left}" in ran.err
    assert f"Left to a later run: {left}" in project.tandem("runs", "show").ok().out
    (tmp_path / "more.csv.ok").touch()
    assert project.tandem("run", "--json").ok().json["rows"]["in"] == 33
