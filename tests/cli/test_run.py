"""`tandem run`, and the commands that look at what it made."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cli.support import DAYS, Project, rows, write_csv
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
KEYS: dict[str, type | tuple[type, ...] | dict[str, type]] = {
    "run": str, "pipeline": str, "state": str,
    "partitions": dict.fromkeys(("total", "published", "unchanged", "failed", "cancelled", "not_run", "retired"), int),
    "rows": dict.fromkeys(("in", "ok", "rejected", "filtered", "pending", "removed", "out", "unfinished"), int),
    "gone": {"partitions": int, "rows": int},
    "journal": dict.fromkeys(("rows_reused", "calls_reused", "rows_shared"), int),
    "usage": {
        "calls": int, "input_tokens": int, "output_tokens": int, "cost_usd": float, "unknown": int, "saved_usd": dict,
        "cache_read_tokens": int, "cache_write_tokens": int, "reasoning_tokens": int, "by_tier": dict,
    },
    "billed_over_needed": float, "sink": str, "started_at": str, "finished_at": (str, type(None)), "failures": list,
    "checks": list,
}  # fmt: skip


def check_report(report: Any, *, state: str = "completed") -> Any:
    """Exactly the promised keys, their types, and rows that add up."""
    assert [key for key in report if key != "answered_by"] == list(KEYS)  # it is there where models have answered
    for name, wanted in KEYS.items():
        if isinstance(wanted, dict):
            assert {key: type(value) for key, value in report[name].items()} == wanted, name
        else:
            assert isinstance(report[name], wanted), name
    assert report["state"] == state
    counts = report["rows"]
    accounted = ("ok", "rejected", "filtered", "pending", "unfinished")
    assert sum(counts[name] for name in accounted) == counts["in"]
    for name in ("started_at", "finished_at") if state != "running" else ("started_at",):
        assert report[name].endswith("Z")
        dt.datetime.fromisoformat(report[name])
    return report


def table(project: Project) -> pl.DataFrame:
    """What is committed, by the paths that the command line names."""
    paths = project.tandem("outputs", "files").ok().out.split("\n")[:-1]
    return pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in paths]).sort("id")


def test_what_moved_is_asked_and_nothing_else(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")

    def run(*args: str) -> Any:
        before = model_server.stats().answered_ok
        report = check_report(project.tandem("run", "--json", *args).ok().json)
        asked = model_server.stats().answered_ok - before
        assert report["usage"]["calls"] == asked
        assert report["billed_over_needed"] == 1.0
        return report

    first = run()
    assert first["pipeline"] == "tickets"
    assert first["sink"] == str(tmp_path / "out")
    assert first["partitions"]["published"] == first["partitions"]["total"] == 3
    assert first["rows"] == {
        "in": 30, "ok": 30, "rejected": 0, "filtered": 0, "pending": 0, "removed": 0, "out": 30, "unfinished": 0,
    }  # fmt: skip
    assert first["usage"]["calls"] == 30
    assert first["usage"]["input_tokens"] > 0
    assert table(project).columns == ["id", "created_at", "body", "note", "mood", "summary"]

    again = run()
    assert (again["partitions"]["unchanged"], again["partitions"]["published"], again["usage"]["calls"]) == (3, 0, 0)
    assert again["rows"]["in"] == 0
    nothing_is_stale = project.tandem("run", "--fresh", "--yes").ok()
    assert "to run all of them: --reprocess all --fresh" in nothing_is_stale.err

    anew = run("--reprocess", "all")
    assert (anew["partitions"]["published"], anew["usage"]["calls"]) == (3, 0)
    assert anew["journal"]["rows_reused"] == anew["rows"]["ok"] == 30

    write_csv(tmp_path / "rows.csv", rows(40))
    more = run()
    assert (more["usage"]["calls"], more["journal"]["rows_reused"], more["rows"]["out"]) == (10, 30, 40)

    write_csv(tmp_path / "rows.csv", rows(40, note="other"))
    passed = run()
    assert (passed["usage"]["calls"], passed["partitions"]["published"]) == (0, 3)
    assert table(project)["note"].to_list() == [f"other{number}" for number in range(40)]

    write_csv(tmp_path / "rows.csv", rows(36, note="other"))
    fewer = run()
    assert (fewer["usage"]["calls"], fewer["rows"]["removed"], fewer["rows"]["out"]) == (0, 4, 36)

    project.stage["prompt"] = "In short: {{ body }}"
    project.write()
    assert run()["usage"]["calls"] == 36
    assert model_server.stats().max_ok_per_content == 1
    listed = project.tandem("outputs", "ls", "--json").ok().json
    assert [(item["partition"], item["generation"]) for item in listed] == [(day, 6) for day in DAYS]


def test_a_name_is_joined_and_its_report_kept(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    first = project.tandem("run", "--name", "n1", "--json").ok()
    again = project.tandem("run", "--name", "n1", "--json").ok()
    assert again.json == first.json
    assert "completed" in again.err
    assert "partitions to run" not in again.err, "its report comes at once"
    other = project.tandem("run", "--name", "n1", "--reprocess", "all", "--json")
    assert (other.code, other.json["error"]["code"]) == (2, "NameTaken")
    assert "'n1'" in other.json["error"]["message"]
    project.stage["prompt"] = "Else: {{ body }}"
    project.write()
    assert project.tandem("run", "--name", "n1", "--json").json["error"]["code"] == "NameTaken"

    assert check_report(project.tandem("runs", "show", "--json").ok().json) == first.json
    assert project.tandem("runs", "show", "tickets/n1", "--json").ok().json == first.json
    assert project.tandem("runs", "watch", "n1", "--json").ok().json == first.json
    assert project.tandem("runs", "list", "--json").ok().json == [first.json]
    plain = project.tandem("runs", "list").ok().out.splitlines()
    assert [line.split()[0] for line in plain] == ["run", "tickets/n1"]


def test_selecting(tmp_path: Path) -> None:
    project = Project.make(tmp_path)

    def run(*args: str) -> Any:
        report = check_report(project.tandem("run", "--json", *args).ok().json)
        return [report["partitions"]["published"], report["rows"]["in"], report["rows"]["out"]]

    assert run("--limit-rows", "4") == [1, 4, 4]
    (kept,) = project.tandem("outputs", "ls", "--json").ok().json
    assert (kept["kind"], kept["rows"], kept["partition"]) == ("partial", 4, DAYS[0])
    assert run("--partition", DAYS[1], "--partition", DAYS[2]) == [2, 20, 20]
    assert run("--from-date", "2026-11-01", "--to-date", "2026-11-01") == [1, 10, 10]
    assert [item["kind"] for item in project.tandem("outputs", "ls", "--json").ok().json] == ["published"] * 3
    part = run("--limit-rows", "4", "--reprocess", "all")
    assert part == [0, 4, 0], "a complete generation is never replaced by a part"

    today = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    table = [{**row, "created_at": (today - dt.timedelta(days=row["id"])).isoformat()} for row in rows(10)]
    write_csv(tmp_path / "rows.csv", table)
    assert run("--last", "2d") == [2, 2, 2]


def test_rows_that_are_filtered_or_rejected(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    project.stage["on_reject"] = "null"
    query = "SELECT * FROM rows WHERE id % 2 = 0 OR mood IS NULL"
    project.spec["stages"].append({"name": "even", "uses": "sql", "query": query})
    project.write()
    model_server.script({"rules": [{"match": "number 7 ", "action": "error", "code": "content_filter"}]})
    report = check_report(project.tandem("run", "--json").ok().json)
    assert report["rows"] == {
        "in": 30, "ok": 15, "rejected": 1, "filtered": 14, "pending": 0, "removed": 0, "out": 16, "unfinished": 0,
    }  # fmt: skip
    assert table(project).filter(pl.col("id") == 7).select("mood", "summary").row(0) == (None, None)

    project.stage["on_reject"] = "drop"
    project.write()
    told = project.tandem("run").ok()
    assert "Rows: 30 in: 15 ok, 1 rejected, 14 filtered; 15 published" in told.out, told
    assert "✓ day=2026-11-02: 5 rows (1 rejected, 4 filtered" in told.err, told


def test_what_is_said_and_where(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    told = project.tandem("run").ok()
    progress = ["tickets: 3 of 3 partitions to run, 30 rows.", "never published", "30 calls, free", "started."]
    progress += ["Temporal UI: http://", "runs watch", *(f"✓ {day}: 10 rows" for day in DAYS)]
    for text in progress:
        assert text in told.err, text
        assert text not in told.out
    result = ["completed in", "30 in: 30 ok; 30 published", "Paid: 30 calls", "message number", "mood", "summary"]
    result += [f"Output: {tmp_path}/out/data", "Read it: "]
    for text in result:
        assert text in told.out, text
    files = project.tandem("outputs", "files").ok()
    assert files.err == ""
    assert [Path(line).parent.name for line in files.out.splitlines()] == list(DAYS)
    one = project.tandem("outputs", "files", DAYS[1]).ok()
    assert one.out == files.out.splitlines(keepends=True)[1]
    listed = project.tandem("outputs", "files", "--json").ok().json
    assert [list(item) for item in listed] == [["partition", "generation", "path", "rows", "bytes"]] * 3
    for item, line in zip(listed, files.out.splitlines(), strict=True):
        assert (item["path"], item["generation"], item["rows"]) == (line, 1, 10)
        assert item["bytes"] == Path(line).stat().st_size
    head = project.tandem("outputs", "head", "tandem.yaml", DAYS[2], "--rows", "2", "--json").ok().json
    assert [row["id"] for row in head] == [2, 5]
    assert "message number 0" in project.tandem("outputs", "head", "--rows", "1").ok().out
    silent = project.tandem("run", "-q", "--reprocess", "all").ok()
    assert (silent.out, silent.err) == ("", "")


@pytest.mark.parametrize("flag", ["--json", ""])
def test_the_demo(tmp_path: Path, flag: str) -> None:
    project = Project(tmp_path)
    told = project.tandem("demo", "--rows", "100", *([flag] if flag else [])).ok()
    if flag:
        assert check_report(told.json)["rows"]["ok"] == 100
        assert told.json["usage"]["cost_usd"] == 0
        return
    for text in ("category", "urgency", "Output: ", "Try next", "init"):
        assert text in told.out, text
    again = project.tandem("run", "tandem-demo/tandem.yaml", "--json").ok().json
    assert again["partitions"]["published"] == 0
