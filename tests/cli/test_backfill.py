"""`tandem backfill`: past partitions, each published once, whatever happens on the way."""

from __future__ import annotations

import datetime as dt
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, Started, eventually, write_csv
from tests.cli.test_plan import check_plan
from tests.cli.test_run import check_report
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
FIRST = dt.date(2026, 9, 1)


def days(count: int, rows_a_day: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{day}-{row}",
            "created_at": f"{FIRST + dt.timedelta(days=day)}T10:00",
            "body": f"text {row} of day {day:02d}",
        }
        for day in range(count)
        for row in range(rows_a_day)
    ]


def over(count: int) -> tuple[str, ...]:
    return "--from-date", f"{FIRST}", "--to-date", f"{FIRST + dt.timedelta(days=count - 1)}"


def test_a_backfill_takes_what_is_missing_and_a_canary_goes_first(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    write_csv(tmp_path / "rows.csv", days(6, 3))
    dry = project.tandem("backfill", *over(4), "--dry-run", "--json").ok()
    plan = check_plan(dry.json)
    assert (len(plan["partitions"]), plan["estimate"]["calls"]) == (4, [12, 12])
    assert model_server.stats().requests == 0
    ran = project.tandem("backfill", *over(4), "--canary", "4", "--run-backwards", "--max-active", "1", "--json").ok()
    report = check_report(ran.json)
    assert (report["partitions"]["published"], report["usage"]["calls"]) == (4, 12)
    done = [line.split(":")[0] for line in ran.err.splitlines() if line.startswith("✓")]
    assert done == [f"✓ day={FIRST + dt.timedelta(days=day)}" for day in (3, 2, 1, 0)]

    project.stage["prompt"] = "In short: {{ body }}"
    project.write()
    more = check_report(project.tandem("backfill", *over(6), "--json").ok().json)
    assert (more["partitions"]["published"], more["partitions"]["unchanged"]) == (2, 4), "what is published stays"
    assert more["usage"]["calls"] == 6

    for wrong, said in {
        ("--from-date", "2026-09-01"): "--to-date",
        ("--from-date", "2026-09-31", "--to-date", "2026-10-02"): "not a date",
        ("--from-date", "2027-01-01", "--to-date", "2027-01-02"): "No partition lies between",
        (*over(2), "--fail-fast", "--max-failures", "2"): "--fail-fast cannot be combined",
        (*over(2), "--reprocess", "some"): "not one of",
    }.items():
        result = project.tandem("backfill", *wrong)
        assert (result.code, said in result.err) == (2, True), result
        assert len(result.err.splitlines()) <= 2


def test_a_canary_that_is_rejected_ends_the_backfill_by_a_limit(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    project.stage["when_empty"] = "reject"
    write_csv(tmp_path / "rows.csv", [{**row, "body": ""} for row in days(5, 2)])
    project.write()
    ended = project.tandem("backfill", *over(5), "--canary", "3", "--json")
    assert ended.code == 3
    report = check_report(ended.json, state="failed")
    assert (report["partitions"]["published"], report["partitions"]["not_run"]) == (0, 5)
    assert project.published() == []
    assert "empty" in project.tandem("rejects", "ls").ok().out


def backfilled(folder: Path, server: ModelServer, count: int, rows_a_day: int) -> None:
    """Paused, its worker killed, resumed, cancelled, resumed under the same name. The provider hangs for later days, so
    that each of these meets the backfill in the middle."""
    project = Project.make(folder, server.env(), model="openai:test-model")
    write_csv(folder / "rows.csv", days(count, rows_a_day))
    command = ("backfill", *over(count), "--name", "past", "--max-active", "8", "--json")
    calls = count * rows_a_day

    def as_far_as(thirds: int, run: Started) -> None:
        done = count * thirds // 3 * rows_a_day
        eventually(lambda: server.stats().answered_ok >= done, f"{done} answers", 90)
        assert run.process.poll() is None

    def hang_after(thirds: int) -> None:
        later = range(count * thirds // 3, count)
        server.script({"rules": [{"match": f"day {day:02d}", "action": "hang"} for day in later]})

    hang_after(1)
    with project.start(*command) as first:
        as_far_as(1, first)
        project.tandem("runs", "pause", "past").ok()
        first.end(signal.SIGKILL)
    hang_after(2)
    with project.start(*command) as second:
        as_far_as(2, second)
        second.end(signal.SIGKILL)
    with project.start(*command) as third:
        eventually(lambda: server.stats().in_flight > 0, "the third is at work")
        project.tandem("runs", "cancel", "past").ok()
        cancelled = check_report(third.wait().json, state="cancelled")
    assert third.process.returncode == 1
    assert cancelled["partitions"]["published"] >= count // 3
    other = project.tandem(*command[:3], "--to-date", f"{FIRST}", "--name", "past", "--json")
    assert (other.code, other.json["error"]["code"]) == (2, "NameTaken")
    server.script({})
    last = check_report(project.tandem(*command, timeout_s=300).ok().json)
    assert last["partitions"]["total"] == last["partitions"]["published"] == count, "over all its processes"
    assert len(publications(folder)) == count, "each partition was published once"
    assert last["usage"]["calls"] == calls
    assert last["billed_over_needed"] == 1.0
    assert server.stats().answered_ok <= calls + 64, "what was in flight at a kill may be paid for again, no more"
    assert project.tandem(*command).ok().json == last, "completed: its report"


def publications(folder: Path) -> list[str]:
    """The partition of every publication that ever was; the tombstones of a cancel are none."""
    commits = (folder / "out" / "_tandem" / "commits").glob("*/*.json")
    manifests = [json.loads(path.read_text()) for path in commits]
    return [manifest["partition"] for manifest in manifests if manifest["kind"] != "tombstone"]


def test_a_backfill_is_resumed_from_any_end(tmp_path: Path, model_server: ModelServer) -> None:
    backfilled(tmp_path, model_server, 12, 4)


@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_ninety_days_are_resumed_from_any_end(tmp_path: Path, model_server: ModelServer) -> None:
    backfilled(tmp_path, model_server, 90, 8)
