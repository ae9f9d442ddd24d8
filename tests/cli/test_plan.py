"""`tandem plan`: what would run, why, and what it would ask; the command spends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import DAYS, Project, rows, write_csv

pytestmark = pytest.mark.timeout(300)
ESTIMATES = ["calls", "input_tokens", "output_tokens", "cost_usd", "seconds"]


def check_plan(plan: Any) -> Any:
    """Exactly the promised keys; every range in order."""
    assert list(plan) == ["partitions", "estimate"]
    for line in plan["partitions"]:
        assert list(line) == ["partition", "decision", "reason", "rows"]
        assert list(line["rows"]) == ["new", "changed", "unchanged", "removed"]
        assert line["decision"] in ("run", "skip")
    assert list(plan["estimate"]) == ESTIMATES
    for name, (low, high) in plan["estimate"].items():
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
