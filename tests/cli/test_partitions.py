"""`tandem partitions`: what is published and how the last attempt ended are two facts, and neither hides the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import DAYS, Project, rows, write_csv

pytestmark = pytest.mark.timeout(900)
FACTS = ["partition", "published", "last_attempt", "decision", "reason"]


def test_two_facts_and_what_is_due(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    empty = project.tandem("partitions", "list", "--json").ok().json
    assert [list(line) for line in empty] == [FACTS] * 3
    assert {(line["published"], line["last_attempt"], line["decision"]) for line in empty} == {(None, None, "run")}
    run = project.tandem("run", "--json").ok().json["run"]

    table = rows(30)
    table[0]["body"] = ""
    write_csv(tmp_path / "rows.csv", [row for row in table if row["id"] % 3 != 2])
    project.stage["when_empty"] = "reject"
    project.spec["limits"] = {"max_reject_rate": 0.0}
    project.write()
    failed = project.tandem("run", "--partition", DAYS[0], "--json")
    assert failed.code == 3

    first, second, third = project.tandem("partitions", "list", "--json").ok().json
    assert {**first["published"], "at": "", "bytes": 0} == {
        "kind": "published", "generation": 1, "run": run, "at": "", "rows": 10, "rejected": 0, "pending": 0, "bytes": 0,
    }  # fmt: skip
    assert (first["last_attempt"]["outcome"], first["last_attempt"]["error"]) == ("failed", "RejectRateExceeded")
    assert first["last_attempt"]["run"] == failed.json["run"]
    assert (first["decision"], first["reason"]) == (
        "run", "last attempt failed (RejectRateExceeded), options of `triage` changed, input changed",
    )  # fmt: skip
    assert (second["last_attempt"]["outcome"], second["decision"]) == ("published", "run")
    assert (third["published"]["generation"], third["decision"], third["reason"]) == (1, "gone", "gone from the source")

    def keys(*status: str) -> list[str]:
        flags = [flag for word in status for flag in ("--status", word)]
        return [line["partition"] for line in project.tandem("partitions", "list", *flags, "--json").ok().json]

    assert keys("failed") == [DAYS[0]]
    assert keys("gone", "failed") == [DAYS[0], DAYS[2]]
    assert keys("missing") == []
    wrong = project.tandem("partitions", "list", "--status", "good")
    assert (wrong.code, "not one of published, partial, missing" in wrong.err) == (2, True)

    said = project.tandem("partitions", "list").ok()
    assert "1 partition gone from the source; what is published of them is kept" in said.err
    assert [line.split()[0] for line in said.out.splitlines()] == ["partition", *DAYS]

    shown = project.tandem("partitions", "show", DAYS[0], "--json").ok().json
    assert list(shown) == [*FACTS, "rows", "checks", "generations"]
    assert shown["rows"] == {"new": 0, "changed": 1, "unchanged": 9, "removed": 0}
    assert [(said["generation"], said["kind"], said["run"], said["calls"]) for said in shown["generations"]] == [
        (1, "published", run, 10)
    ]
    text = project.tandem("partitions", "show", DAYS[2]).ok().out
    assert "gone from the source" in text
    for wrong in (project.tandem("partitions", "show", "day=1999-01-01"), project.tandem("partitions", "show")):
        assert (wrong.code, len(wrong.err.splitlines())) == (2, 2), wrong

    (tmp_path / "rows.csv").unlink()
    without = project.tandem("partitions", "list", "--json").ok()
    assert "The due partitions are unknown" in without.err
    assert [line["published"]["generation"] for line in without.json] == [1, 1, 1]
