"""Every file of ours, emptied or cut in half: no command ends in a bug, and `--json` always gives its one document."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest
from deltalake import DeltaTable

from tests.cli.support import DAYS, Project, Result

FILES = {
    "schema": "_tandem/schema.json",
    "dataset": "_tandem/dataset.json",
    "snapshot": "_tandem/snapshots/*/snapshot.json",
    "snapshot entries": "_tandem/snapshots/*/entries-*.parquet",
    "report": "_tandem/runs/first/report.json",
    "request": "_tandem/runs/first/request.json",
    "journal": f"_tandem/journal/{DAYS[0]}/compact-*.parquet",
    "data": f"data/{DAYS[0]}/*.parquet",
    "index": f"_tandem/index/{DAYS[0]}/*.parquet",
    "manifest": f"_tandem/commits/{DAYS[0]}/*.json",
}
LOOKS = (
    ("plan", "--json"),
    ("outputs", "verify", "--json"),
    ("runs", "show", "first", "--json"),
    ("partitions", "list", "--json"),
)
# What is derived is made again, what is the truth is named: by a run, of the same input.
STOPS = {"schema", "dataset", "manifest"}
MENDED = {"schema", "dataset", "manifest", "data", "index"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.make(tmp_path_factory.mktemp("damage"))
    project.tandem("run", "-q", "--name", "first").ok()
    return project


def damaged(published: Project, folder: Path, name: str, cut: str) -> Project:
    """A copy of the project with one file of its sink damaged."""
    shutil.copytree(published.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".tandem"))
    project = Project(folder, published.env, published.spec)
    (path,) = (folder / "out").glob(FILES[name])
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2] if cut == "half" else b"")
    return project


def one_document(result: Result) -> object:
    assert result.code != 70, result.err
    assert "Traceback" not in result.err
    return orjson.loads(result.out)


# A derived file, one that is not, one that only one command reads; the others by `make prove`.
IN_CI = {("schema", "empty"), ("manifest", "half"), ("report", "half"), ("data", "empty")}
DAMAGES = [
    pytest.param(name, cut, marks=[] if (name, cut) in IN_CI else pytest.mark.prove)
    for name in FILES
    for cut in ("empty", "half")
]


@pytest.mark.parametrize(("name", "cut"), DAMAGES)
def test_a_damaged_file_is_made_again_or_named(published: Project, tmp_path: Path, name: str, cut: str) -> None:
    project = damaged(published, tmp_path, name, cut)
    for command in LOOKS:
        found = one_document(project.tandem(*command))
        if command[1] == "verify" and name in MENDED:
            assert isinstance(found, dict)
            assert not found["ok"], "verify sees it"
    result = project.tandem("run", "--json")
    found = one_document(result)
    assert isinstance(found, dict)
    if name in STOPS:
        assert result.code == 4
        assert "damaged" in found["error"]["message"]
        assert "tandem outputs repair" in found["error"]["hint"]
    else:
        # Without its report a run counts as unfinished: it is carried on, and tells of its own calls once more.
        assert (result.code, found["usage"]["calls"]) == (0, 30 if name == "report" else 0)


@pytest.mark.parametrize("cut", ["empty", pytest.param("half", marks=pytest.mark.prove)])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("schema", "data") else pytest.mark.prove) for name in sorted(MENDED)],
)
def test_repair_mends_it_for_no_calls(published: Project, tmp_path: Path, name: str, cut: str) -> None:
    project = damaged(published, tmp_path, name, cut)
    told = project.tandem("outputs", "repair", "--json").ok().json
    assert told["dry_run"]
    done = project.tandem("outputs", "repair", "--yes", "--json").ok().json
    assert done["rebuilt"] == ([FILES[name]] if name in ("schema", "dataset") else [])
    assert done["republished"] == ([DAYS[0]] if name in ("data", "index", "manifest") else [])
    if done["run"] is not None:
        assert done["run"]["usage"]["calls"] == 0
    assert project.tandem("outputs", "verify", "--json").ok().json["ok"]
    assert project.tandem("run", "--json").ok().json["partitions"]["unchanged"] == 3


def test_a_table_that_another_writer_changed_is_repaired_for_no_calls(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.spec["sink"]["format"] = "delta"
    project.write()
    project.tandem("run", "-q").ok()
    table = str(tmp_path / "out" / "data")
    DeltaTable(table).delete("id < 4")
    problems = project.tandem("outputs", "verify", "--json").json["problems"]
    changed = [problem for problem in problems if problem["kind"] == "table"]
    assert [problem["partition"] for problem in changed] == list(DAYS)
    assert "tandem run --partition day=2026-11-01 --reprocess all" in changed[0]["message"]
    repaired = project.tandem("outputs", "repair", "--yes", "--json").json
    assert repaired["republished"] == list(DAYS)
    assert repaired["run"]["usage"]["calls"] == 0
    assert DeltaTable(table).to_pyarrow_table().num_rows == 30
