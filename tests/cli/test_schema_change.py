"""Published columns that are dropped or changed: refused with the command that does it, which publishes every partition
again from the journal, says how far it has come, and is carried on after a kill."""

from __future__ import annotations

import signal
from pathlib import Path

import polars as pl
import pytest

from pipeline.consume import VersionsDiffer, scan
from tests.cli.support import DAYS, Project, eventually
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
CHANGE = ("--reprocess", "all", "--allow-schema-change")
ROWS = 30


@pytest.fixture(params=["parquet", "delta", "iceberg"])
def project(request: pytest.FixtureRequest, tmp_path: Path, model_server: ModelServer) -> Project:
    """Three days that are published with a column `note`, which the spec drops now."""
    project = Project.make(tmp_path, model_server.env(), count=ROWS, model="openai:test-model")
    project.spec["sink"]["format"] = request.param
    project.write()
    project.tandem("run", "-q").ok()
    project.stage["drop"] = ["note"]
    project.write()
    return project


def generations(project: Project) -> list[int]:
    return [len(list(project.folder.glob(f"out/_tandem/commits/{day}/*.json"))) for day in DAYS]


def columns(project: Project) -> list[str]:
    return scan(project.folder / "out").collect_schema().names()


def table_columns(project: Project) -> list[str]:
    """The columns that the format's own reader shows."""
    if project.spec["sink"]["format"] == "delta":
        from deltalake import DeltaTable

        return [field.name for field in DeltaTable(project.folder / "out/data").schema().fields]
    if project.spec["sink"]["format"] == "iceberg":
        from pyiceberg.catalog.sql import SqlCatalog

        catalog = SqlCatalog("tandem", uri=f"sqlite:///{project.folder / 'out/_tandem/iceberg.db'}")
        try:
            return list(catalog.load_table("tandem.tickets").schema().column_names)
        finally:
            catalog.close()
    return columns(project)


def test_it_is_refused_with_the_command_that_does_it_for_no_call(project: Project, model_server: ModelServer) -> None:
    for command in ("plan", "run"):
        told = project.tandem(command, "--json")
        assert told.code == 2, told
        error = told.json["error"]
        assert error["code"] == "SchemaChanged"
        assert "column 'note' (string) is gone" in error["message"]
        assert "tandem run --reprocess all --allow-schema-change" in error["hint"]
    assert generations(project) == [1, 1, 1]
    planned = project.tandem("plan", *CHANGE, "--json").ok().json
    assert planned["estimate"]["calls"] == [0, 0]
    assert [found["decision"] for found in planned["partitions"]] == ["run"] * 3
    assert all(
        "published columns changed (column 'note' (string) is gone)" in p["reason"] for p in planned["partitions"]
    )
    report = project.tandem("run", *CHANGE, "--json").ok().json
    assert (report["usage"]["calls"], report["partitions"]["published"]) == (0, 3)
    assert "mixed" not in report
    assert model_server.stats().answered_ok == ROWS
    assert generations(project) == [2, 2, 2]
    assert "note" not in columns(project)
    assert "note" not in table_columns(project)
    project.tandem("outputs", "verify").ok()
    assert project.tandem("run", "--json").ok().json["partitions"]["unchanged"] == 3


def test_a_change_that_stops_half_way_says_how_far_it_is(project: Project, model_server: ModelServer) -> None:
    """One partition fails; a plain run, without the flag, finishes the change."""
    project.spec["checks"] = [{"name": "late", "sql": "day <> date '2026-11-03'"}]
    project.write()
    told = project.tandem("run", *CHANGE)
    assert told.code == 1, told
    assert "1 of 3 partitions still have the columns of before the change (column 'note' (string) is gone)" in told.out
    assert "tandem run --reprocess all --allow-schema-change" in told.out
    shown = project.tandem("runs", "show", "--json").ok().json
    assert shown["mixed"] == {"partitions": 1, "of": 3, "change": "column 'note' (string) is gone"}
    found = project.tandem("outputs", "verify", "--json")
    assert found.code == 1
    assert [problem["kind"] for problem in found.json["problems"]] == ["mixed"]
    with pytest.raises(VersionsDiffer, match="1 of 3"):
        columns(project)
    former = scan(project.folder / "out", DAYS[2]).collect()
    assert former["note"].null_count() == 0, "one partition is read in its own columns"
    assert len(project.tandem("outputs", "files").ok().out.split()) == 3
    assert ("note" in table_columns(project)) if project.spec["sink"]["format"] != "parquet" else True
    del project.spec["checks"]
    project.write()
    assert [p["decision"] for p in project.tandem("plan", "--json").ok().json["partitions"]] == ["skip", "skip", "run"]
    report = project.tandem("run", "--json").ok().json
    assert (report["usage"]["calls"], report["partitions"]["published"]) == (0, 1)
    assert "note" not in table_columns(project)
    project.tandem("outputs", "verify").ok()
    assert model_server.stats().answered_ok == ROWS


def test_a_killed_change_is_carried_on_by_the_same_command(project: Project, model_server: ModelServer) -> None:
    project.spec["limits"] = {"partitions_in_flight": 1}
    project.write()
    with project.start("run", *CHANGE) as first:
        eventually(lambda: 2 in generations(project), "the first partition")
        first.end(signal.SIGKILL)
    project.tandem("run", *CHANGE, timeout_s=200).ok()
    assert min(generations(project)) >= 2
    assert "note" not in columns(project)
    assert "note" not in table_columns(project)
    project.tandem("outputs", "verify").ok()
    assert model_server.stats().answered_ok == ROWS


def test_a_partition_that_is_gone_from_the_source_is_retired_to_finish_a_change(
    project: Project, model_server: ModelServer
) -> None:
    lines = (project.folder / "rows.csv").read_text().splitlines()
    kept = [line for line in lines if "2026-11-03" not in line]
    (project.folder / "rows.csv").write_text("\n".join(kept) + "\n")
    told = project.tandem("run", *CHANGE).ok()
    assert "1 of 3 partitions still have the columns of before the change" in told.out
    assert "to retire those that are gone from the source: tandem run --prune" in told.out
    report = project.tandem("run", "--prune", "--json").ok().json
    assert "mixed" not in report
    assert report["partitions"]["retired"] == 1
    assert "note" not in columns(project)
    assert "note" not in table_columns(project)
    project.tandem("outputs", "verify").ok()
    assert model_server.stats().answered_ok == ROWS


def test_the_flag_is_about_the_whole_dataset(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    for flags in (("--partition", DAYS[0]), ("--last", "3d"), ("--limit-rows", "3"), ("--reprocess", "failed")):
        told = project.tandem("run", "--allow-schema-change", *flags)
        assert told.code == 2, flags
        assert "--allow-schema-change publishes every partition again" in told.err


def test_a_wider_type_in_a_new_file_is_such_a_change(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    frame = pl.DataFrame({"id": [1, 2], "body": ["one", "two"], "size": pl.Series([1, 2], dtype=pl.Int32)})
    (tmp_path / "in").mkdir()
    frame.write_parquet(tmp_path / "in/a.parquet")
    project.spec |= {"source": {"path": "in", "key": ["id"]}, "partition": {"by": "files"}}
    project.write()
    project.tandem("run", "-q").ok()
    wider = frame.with_columns(pl.col("id") + 2, pl.col("body") + "!", pl.col("size").cast(pl.Int64) * 2**40)
    wider.write_parquet(tmp_path / "in/b.parquet")
    told = project.tandem("run")
    assert told.code == 2, told
    assert "column 'size' was int32 and is int64" in told.err
    project.tandem("run", *CHANGE).ok()
    assert sorted(scan(tmp_path / "out").collect()["size"]) == [1, 2, 2**40, 2**41]
    assert model_server.stats().answered_ok == 4
