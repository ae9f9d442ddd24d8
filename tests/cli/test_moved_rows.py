"""Rows that move, files that are renamed, and sources that shrink: nothing is paid again, nothing is there twice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cli.support import Project, write_csv
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.slow
FORMATS = ("parquet", "delta", "iceberg")


def table(*numbers: int, day: Callable[[int], str] = lambda number: "mon", text: str = "text") -> list[dict[str, Any]]:
    return [{"id": number, "body": f"{text} {number}", "day": day(number)} for number in numbers]


class Source:
    """A project over a folder of files, and what its runs pay for."""

    def __init__(self, folder: Path, server: ModelServer, **changed: Any) -> None:
        self.server = server
        self.project = Project.make(folder, server.env(), model="openai:test-model")
        self.folder = folder / "in"
        self.folder.mkdir()
        self.change(**{"source": {"path": "in/*.csv", "key": ["id"]}, "partition": {"by": "files"}, **changed})

    def change(self, **changed: Any) -> None:
        self.project.spec.update(changed)
        self.project.write()

    def put(self, name: str, rows: list[dict[str, Any]]) -> None:
        write_csv(self.folder / name, rows)

    def run(self, *flags: str) -> dict[str, Any]:
        """Run, and check that the plan told the calls."""
        selection = [flag for flag in flags if flag == "--prune"]
        planned = self.project.tandem("plan", "--json", *selection).ok().json["estimate"]["calls"]
        before = self.server.stats().answered_ok
        report: dict[str, Any] = self.project.tandem("run", "--json", *flags).ok().json
        self.calls = self.server.stats().answered_ok - before
        assert planned == [self.calls, self.calls], "the plan is the bill"
        assert report["usage"]["calls"] == self.calls
        return report

    def ids(self, sink: str = "out") -> Counter[int]:
        """What a glob reads."""
        files = sorted((self.project.folder / sink / "data").rglob("*.parquet"))
        return Counter(id for file in files for id in pl.read_parquet(file, hive_partitioning=False)["id"])

    def exact_ids(self, sink: str = "out") -> Counter[int]:
        """What manifests name."""
        files = self.project.tandem("outputs", "files", "--json").ok().json
        return Counter(id for file in files for id in pl.read_parquet(file["path"], hive_partitioning=False)["id"])


@pytest.fixture
def source(tmp_path: Path, model_server: ModelServer) -> Source:
    return Source(tmp_path, model_server)


@pytest.mark.parametrize("form", FORMATS)
def test_a_renamed_file_is_the_same_rows(tmp_path: Path, model_server: ModelServer, form: str) -> None:
    source = Source(tmp_path, model_server, sink={"path": "out", "format": form, "keep_superseded": "0s"})
    source.put("a.csv", table(*range(20)))
    source.put("b.csv", table(*range(20, 30)))
    source.run()
    (source.folder / "a.csv").rename(source.folder / "c.csv")
    plan = source.project.tandem("plan").ok().out
    assert "retire file=a.csv: its rows are in file=c.csv now: 20 published rows" in plan
    report = source.run()
    assert (source.calls, report["partitions"]["retired"], report["gone"]["partitions"]) == (0, 1, 0)
    assert source.ids() == source.exact_ids() == Counter(range(30))
    if form == "delta":
        from deltalake import DeltaTable

        assert Counter(DeltaTable(str(tmp_path / "out" / "data")).to_pyarrow_table()["id"].to_pylist()) == Counter(
            range(30)
        )
    assert source.project.tandem("outputs", "verify").ok()
    (source.folder / "c.csv").rename(source.folder / "a.csv")
    source.run()
    assert (source.calls, source.ids()) == (0, Counter(range(30)))


def test_rows_put_before_others_are_the_only_ones_paid_for(source: Source) -> None:
    source.change(source={"path": "in/a.csv", "key": ["id"]}, partition={"by": "rows", "rows": 10})
    source.put("a.csv", table(*range(40)))
    source.run()
    source.put("a.csv", table(*range(100, 110), *range(40)))
    source.run()
    assert source.calls == 10
    assert source.ids() == Counter([*range(40), *range(100, 110)])


@pytest.mark.parametrize("form", FORMATS)
def test_a_source_that_shrinks_leaves_no_block_behind(tmp_path: Path, model_server: ModelServer, form: str) -> None:
    source = Source(tmp_path, model_server, sink={"path": "out", "format": form, "keep_superseded": "0s"})
    source.change(source={"path": "in/a.csv", "key": ["id"]}, partition={"by": "rows", "rows": 10})
    source.put("a.csv", table(*range(40)))
    source.run()
    source.put("a.csv", table(*range(15)))
    report = source.run()
    assert (source.calls, report["partitions"]["retired"]) == (0, 2)
    assert source.ids() == source.exact_ids() == Counter(range(15))


def test_a_row_that_moves_to_another_day_keeps_its_answer(source: Source) -> None:
    source.change(partition={"by": "column", "column": "day"})
    source.put("a.csv", table(*range(12), day=lambda number: "tue" if number > 8 else "mon"))
    source.run()
    source.put("a.csv", table(*range(12), day=lambda number: "tue" if number > 8 or number == 3 else "mon"))
    source.run()
    assert source.calls == 0
    assert source.ids() == Counter(range(12))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_equal_rows_of_several_partitions_are_paid_for_once(source: Source, processes: str) -> None:
    source.server.script({"latency_ms": 20})
    for number in range(6):
        source.put(f"{number}.csv", [{**row, "id": f"{number}-{row['id']}"} for row in table(*range(20))])
    source.project.tandem("run", "--json", "--processes", processes).ok()
    assert source.server.stats().answered_ok == 20


def test_another_partition_scheme_takes_the_answers_of_the_sink_before(source: Source, tmp_path: Path) -> None:
    source.put("a.csv", table(*range(30)))
    source.run()
    changed = {"partition": {"by": "rows", "rows": 7}, "sink": {"path": "other"}, "source": {"path": "in/a.csv"}}
    source.change(**changed, journal={"read_from": ["out"]})
    source.run()
    assert (source.calls, source.ids("other")) == (0, Counter(range(30)))
    shutil.rmtree(tmp_path / "out")
    told = source.project.tandem("run", "--json")
    assert (told.code, "is no sink of Tandem" in told.json["error"]["message"]) == (2, True)
    del source.project.spec["journal"]
    source.project.write()
    source.project.tandem("run", "--reprocess", "all", "--json").ok()
    assert source.server.stats().answered_ok == 30, "what was taken from there is in the sink's own journal"


def test_two_pipelines_read_each_others_journals_at_once(tmp_path: Path, model_server: ModelServer) -> None:
    sources = []
    for number, other in ((0, 1), (1, 0)):
        (tmp_path / str(number)).mkdir()
        made = Source(tmp_path / str(number), model_server)
        made.put("a.csv", table(*range(number * 10, number * 10 + 10)))
        made.run()
        made.change(journal={"read_from": [f"../{other}/out"]})
        sources.append(made)
    for source in sources:
        source.put("b.csv", table(*range(20)))
    started = [source.project.start("run") for source in sources]
    for one in started:
        one.wait().ok()
    assert model_server.stats().answered_ok == 20


def test_what_is_gone_is_kept_until_it_is_pruned_and_comes_back_for_nothing(source: Source) -> None:
    source.put("a.csv", table(*range(5)))
    source.put("b.csv", table(*range(5, 9)))
    source.run()
    (source.folder / "b.csv").unlink()
    report = source.run()
    assert (report["gone"], report["partitions"]["retired"]) == ({"partitions": 1, "rows": 4}, 0)
    assert "tandem run --prune retires them" in source.project.tandem("runs", "show").ok().out
    assert source.run("--prune")["partitions"]["retired"] == 1
    assert source.ids() == source.exact_ids() == Counter(range(5))
    listed = source.project.tandem("partitions", "list").ok()
    assert "retired" in listed.out
    source.put("b.csv", table(*range(5, 9)))
    source.run()
    assert (source.calls, source.ids()) == (0, Counter(range(9)))


def test_a_named_partition_alone_is_pruned(source: Source) -> None:
    for name in "abc":
        source.put(f"{name}.csv", table(ord(name)))
    source.run()
    for name in "bc":
        (source.folder / f"{name}.csv").unlink()
    report = source.project.tandem("run", "--json", "--prune", "--partition", "file=c.csv").ok().json
    assert report["partitions"]["retired"] == 1
    assert source.ids() == Counter(map(ord, "ab"))


def test_a_run_without_calls_takes_what_is_known_and_needs_no_key(source: Source) -> None:
    source.put("a.csv", table(*range(5)))
    missing = source.project.tandem("run", "--json", "--no-calls")
    assert (missing.code, missing.json["error"]["message"]) == (3, "--no-calls: not in the journal: 5 calls.")
    source.run()
    (source.folder / "a.csv").rename(source.folder / "b.csv")
    del source.project.env["OPENAI_API_KEY"]
    source.project.tandem("run", "--no-calls", "--json").ok()
    assert (source.server.stats().answered_ok, source.ids()) == (5, Counter(range(5)))
