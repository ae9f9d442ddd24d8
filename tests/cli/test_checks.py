"""Checks before publication: refused before money where no row could be held against them, and of use where rows break
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import DAYS, Project
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def project(tmp_path: Path, model_server: ModelServer) -> Project:
    return Project.make(tmp_path, model_server.env(), count=9, model="openai:test-model")


def _checks(project: Project, *checks: dict[str, Any]) -> None:
    project.spec["checks"] = list(checks)
    project.write()


def test_what_no_row_could_be_held_against_is_refused_before_any_call(
    project: Project, model_server: ModelServer
) -> None:
    for command, sql, sentence, hint in (
        ("run", "nosuch > 1", "there is no column 'nosuch'", "Columns: id"),
        ("check", "id + 1", "is a number, neither true nor false", "Compare it"),
        ("plan", "length(summary)", "is a number, neither true nor false", "Compare it"),
        ("run", "sum(id) > 3", "uses an aggregate", "Compute it"),
    ):
        _checks(project, {"name": "fine", "sql": "id >= 0"}, {"name": "odd", "sql": sql})
        told = project.tandem(command, "--json")
        assert told.code == 2, (sql, told)
        error = told.json["error"]
        assert error["code"] == "SpecError"
        assert f"check 'odd': '{sql}'" in error["message"]
        assert sentence in error["message"]
        assert error["message"].startswith("tandem.yaml:")
        assert hint in error["hint"]
    assert model_server.stats().requests == 0


def test_contradictions_are_refused_with_their_line(project: Project, model_server: ModelServer) -> None:
    _checks(project, {"name": "a", "sql": "id > 1"}, {"name": "a", "sql": "id < 1"})
    assert "checks[1].name = 'a': another check has this name" in project.tandem("check").err
    project.spec |= {"checks": [], "sink": {"path": "out", "format": "delta", "table": "a.b"}}
    project.write()
    told = project.tandem("check")
    assert told.code == 2
    assert "sink.table = 'a.b' names an Iceberg table" in told.err
    project.spec["sink"] = {"path": "out"}
    project.stage["with"] = {"ask_belw": 0.5}
    project.write()
    told = project.tandem("run")
    assert told.code == 2
    assert "tandem.yaml:" in told.err
    assert "stages[0].with.ask_belw is not a key of the spec; did you mean 'ask_below'?" in told.err
    assert model_server.stats().requests == 0


def test_a_blocked_partition_says_which_rows_and_what_helps(project: Project, model_server: ModelServer) -> None:
    """Day by day: the partition's own column may be named. Its rows are ok, and none is out."""
    _checks(
        project,
        {"name": "late", "sql": "day <> date '2026-11-02' or id < 4"},
        {"name": "odd", "sql": "id <> 3", "severity": "warn"},
    )
    told = project.tandem("run")
    assert told.code == 1, told
    assert "check 'late': 2 rows break it, for example 4, 7" in told.err
    assert "Run it again for what" not in told.out
    assert "tandem partitions show" in told.out
    report = project.tandem("run", "--json").json
    assert report["rows"] == {
        "in": 3, "ok": 3, "rejected": 0, "filtered": 0, "pending": 0, "removed": 0, "out": 0, "unfinished": 0
    }  # fmt: skip
    assert report["checks"] == [
        {"partition": DAYS[1], "name": "late", "severity": "block", "rows": 2, "keys": ["4", "7"]}
    ]
    blocked = project.tandem("partitions", "show", "tandem.yaml", DAYS[1], "--json").ok().json
    assert blocked["checks"] == report["checks"]
    warned = project.tandem("partitions", "show", "tandem.yaml", DAYS[0], "--json").ok().json
    odd = {"name": "odd", "severity": "warn", "rows": 1, "keys": ["3"]}
    assert warned["checks"] == [{"partition": DAYS[0], **odd}]
    assert [generation["checks"] for generation in warned["generations"]] == [[odd]]
    assert model_server.stats().answered_ok == 9
    project.spec["checks"][0]["severity"] = "warn"
    project.write()
    assert project.tandem("run", "--json").ok().json["rows"]["out"] == 3, "as the hint says"
    assert model_server.stats().answered_ok == 9


@pytest.mark.parametrize("form", ["parquet", "delta", "iceberg"])
def test_a_key_in_two_partitions_is_refused_before_any_call(
    project: Project, model_server: ModelServer, form: str
) -> None:
    """Row 4 is on two days: the plan says so, both days are refused, and the third is published."""
    _checks(project, {"name": "ids", "unique": "dataset"})
    project.spec["sink"]["format"] = form
    project.write()
    lines = (project.folder / "rows.csv").read_text().splitlines()
    (project.folder / "rows.csv").write_text("\n".join([*lines, lines[5].replace("2026-11-02", "2026-11-03")]) + "\n")
    broken = [
        {"partition": DAYS[1], "name": "ids", "severity": "block", "rows": 1, "keys": ["4"], "others": [DAYS[2]]},
        {"partition": DAYS[2], "name": "ids", "severity": "block", "rows": 1, "keys": ["4"], "others": [DAYS[1]]},
    ]
    assert project.tandem("plan", "--json").ok().json["checks"] == broken
    told = project.tandem("run", "--json")
    assert told.code == 1, told
    assert told.json["checks"] == broken
    assert [failure["error"] for failure in told.json["failures"]] == ["ChecksFailed"] * 2
    assert told.json["rows"]["ok"] == told.json["rows"]["out"] == model_server.stats().answered_ok == 3
    shown = project.tandem("run")
    assert "check 'ids': 1 key in another partition too, such as 4 (in day=2026-11-03)" in shown.out
    _checks(project, {"name": "ids", "unique": "dataset", "severity": "warn"})
    warned = project.tandem("run", "--json").ok().json
    assert [check["severity"] for check in warned["checks"]] == ["warn"] * 2
    verified = project.tandem("outputs", "verify", "--json").ok().json
    assert verified["duplicate_keys"] == 1
    _checks(project, {"name": "ids", "unique": "dataset"})
    found = project.tandem("outputs", "verify", "--json")
    assert (found.code, [problem["kind"] for problem in found.json["problems"]]) == (1, ["keys"])


def test_rejects_retry_of_an_unknown_error_is_one_document(project: Project) -> None:
    project.tandem("run", "--json").ok()
    told = project.tandem("rejects", "retry", "--error", "nosuch", "--json").ok()
    assert told.json == {"asked_again": 0, "rejected": 0, "message": "No rows are rejected with nosuch."}


def test_help_begins_with_a_first_day(tmp_path: Path) -> None:
    told = Project(tmp_path).tandem("--help").ok().out
    listed = [line.split()[0] for line in told.splitlines() if line.startswith("  ") and line[2:3].isalpha()]
    assert [name for name in listed if name != "Durable"][1:6] == ["demo", "init", "check", "try", "run"]
