"""`tandem outputs verify`, `export` and `gc`, on a dataset that was published and then damaged."""

from __future__ import annotations

import csv
import datetime as dt
import os
from pathlib import Path

import orjson
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.cli.support import DAYS, Project

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "  =1+1",
    " =1",
    "a\n=1",
    "a\r\n \t@x",
    "a\r\r=1",
    "−1",
    "＝1",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Thirty rows over three days, with texts that a spreadsheet would compute."""
    folder = tmp_path_factory.mktemp("outputs")
    project = Project.make(folder)
    table = pl.read_csv(folder / "rows.csv").with_columns(
        pl.Series("note", [FORMULAS[n] if n < len(FORMULAS) else f"plain {n}" for n in range(30)])
    )
    table.write_csv(folder / "rows.csv", quote_style="always")
    project.stage["output"] = {"summary": "str", "tags": "list[str]"}
    project.write()
    project.tandem("run", "-q").ok()
    return project


def part(project: Project, day: str) -> Path:
    (path,) = (project.folder / "out" / "data" / day).glob("*.parquet")
    return path


def test_what_is_sound_is_said_to_be(published: Project) -> None:
    told = published.tandem("outputs", "verify", "--json").ok().json
    assert (told["ok"], told["partitions"], told["rows"], told["problems"], told["notes"]) == (True, 3, 30, [], [])
    assert "all is as published" in published.tandem("outputs", "verify", DAYS[0]).ok().out


def test_a_key_may_be_named_with_and_without_the_spec(published: Project) -> None:
    for named in ((DAYS[1],), ("tandem.yaml", DAYS[1])):
        (line,) = published.tandem("outputs", "ls", *named, "--json").ok().json
        assert (line["partition"], line["rows"]) == (DAYS[1], 10)
        assert DAYS[0] not in published.tandem("outputs", "head", *named).ok().out
        assert published.tandem("outputs", "gc", *named, "--json").ok().json["objects"] == 0
        for command in (("rejects", "ls"), ("rejects", "show"), ("rejects", "retry")):
            assert published.tandem(*command, *named).code == 0
    for command in (("outputs", "ls"), ("rejects", "ls")):
        wrong = published.tandem(*command, "day=2020-01-01")
        assert (wrong.code, "day=2020-01-01: no such partition" in wrong.err) == (2, True)


def test_columns_that_do_not_fit_are_named(published: Project) -> None:
    shown = published.tandem("outputs", "head").ok().out
    assert "Not shown: day" in shown
    assert "summary" in shown


def test_each_damage_is_found_and_named(published: Project) -> None:
    """A flipped byte, a truncated file, a deleted one, a foreign one: a line each, and exit code 1."""
    flipped, cut, gone = (part(published, day) for day in DAYS)
    stranger = published.folder / "out" / "data" / DAYS[0] / "stranger.parquet"
    whole = [path.read_bytes() for path in (flipped, cut, gone)]
    flipped.write_bytes(whole[0][:50] + bytes([whole[0][50] ^ 1]) + whole[0][51:])
    cut.write_bytes(whole[1][:-1])
    gone.unlink()
    stranger.write_bytes(whole[0])
    try:
        told = published.tandem("outputs", "verify")
        assert told.code == 1
        assert sorted(line.split(" ")[0] for line in told.out.splitlines()[:4]) == [
            "checksum:", "foreign:", "missing:", "size:",
        ]  # fmt: skip
        for path in (flipped, cut, gone, stranger):
            assert told.out.count(str(path)) == 1
        json = published.tandem("outputs", "verify", "--json")
        assert (json.code, {problem["kind"] for problem in json.json["problems"]}) == (
            1, {"checksum", "foreign", "missing", "size"},
        )  # fmt: skip
        lost = published.tandem("outputs", "export", "lost.csv")
        assert (lost.code, "cannot be read" in lost.err) == (1, True)
        lost = published.tandem("outputs", "export", DAYS[2], "lost.csv")
        assert (lost.code, "was superseded and removed" in lost.err) == (1, True)
        assert not (published.folder / "lost.csv").exists()
    finally:
        for path, data in zip((flipped, cut, gone), whole, strict=True):
            path.write_bytes(data)
        stranger.unlink()


def test_a_csv_is_safe_in_a_spreadsheet_and_parquet_is_left_alone(published: Project) -> None:
    published.tandem("outputs", "export", "all.csv").ok()
    with (published.folder / "all.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 30
    for line in lines:
        text = line["note"]
        for begun in (text, *text.split("\n"), *text.split("\r")):
            assert not begun.strip(" \u00a0").startswith(("=", "+", "-", "@", "−", "＝")), repr(text)
        assert not text.startswith(("\t", "\r"))
        assert orjson.loads(line["tags"]) == [] or line["tags"].startswith("[")
    plain = {line["note"] for line in lines if line["note"].startswith("plain")}
    assert len(plain) == 30 - len(FORMULAS)
    published.tandem("outputs", "export", "tandem.yaml", "all.parquet").ok()
    kept = pq.read_table(published.folder / "all.parquet")
    assert set(FORMULAS) <= set(kept["note"].to_pylist())
    assert set(kept["day"].to_pylist()) == {dt.date(2026, 11, day) for day in (1, 2, 3)}


def test_export_takes_its_arguments_in_any_order_and_refuses_others(published: Project) -> None:
    orders = [[DAYS[1], "one.ndjson"], ["one.ndjson", DAYS[1]], ["tandem.yaml", DAYS[1], "one.ndjson"]]
    for arguments in orders:
        told = published.tandem("outputs", "export", *arguments, "--json").ok().json
        assert told["rows"] == 10
        rows = [orjson.loads(line) for line in (published.folder / "one.ndjson").read_bytes().splitlines()]
        assert {row["day"] for row in rows} == {"2026-11-02"}
        assert isinstance(rows[0]["tags"], list)
    for arguments, words in (
        (["out.xlsx"], "ends in .csv, .parquet or .ndjson"),
        (["nowhere/out.csv"], "there is no folder"),
        (["day=2027-01-01", "out.csv"], "no such partition"),
    ):
        refused = published.tandem("outputs", "export", *arguments)
        assert (refused.code, words in refused.err) == (2, True)


def test_gc_tells_first_and_takes_only_what_nobody_needs(published: Project) -> None:
    out = published.folder / "out"
    old = dt.datetime.now(dt.UTC).timestamp() - 7 * 86_400
    kept = sorted(path for path in (out / "data").glob("**/*") if path.is_file())
    orphan = out / "data" / DAYS[0] / f"part-00007-g1-{'a' * 16}.parquet"
    stranger = out / "data" / DAYS[0] / "mine.parquet"
    for path in (orphan, stranger):
        path.write_bytes(b"x")
    for path in out.glob("**/*"):
        if path.is_file() and not path.name.startswith("report"):
            os.utime(path, (old, old))
    dry = published.tandem("outputs", "gc", "--json").ok().json
    assert dry["dry_run"]
    assert f"data/{DAYS[0]}/{orphan.name}" in dry["keys"]
    assert set(dry["kinds"]) <= {"orphaned", "staging"}
    assert orphan.exists()
    assert not published.tandem("outputs", "gc", "--older-than", "30d", "--json").ok().json["keys"]
    done = published.tandem("outputs", "gc", "--yes").ok()
    assert "removed" in done.out
    assert not orphan.exists()
    assert stranger.exists(), "what is not named as ours is none of our business"
    stranger.unlink()
    assert sorted(path for path in (out / "data").glob("**/*") if path.is_file()) == kept
    assert not list(out.glob("_tandem/staging/**/*.parquet"))
    published.tandem("outputs", "verify").ok()
    both = published.tandem("outputs", "gc", "--yes", "--dry-run")
    assert both.code == 2
    again = published.tandem("run", "--json").ok().json
    assert again["partitions"]["unchanged"] == 3
