"""What is wrong with the command, the spec or its data: one clear sentence, the right exit code, nothing published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, Result, rows, write_csv
from tests.harness.servers import free_ports

Break = Callable[[Project], None]


def refused(project: Project, *args: str, code: int, naming: tuple[str, ...], kind: str, plain: bool = True) -> None:
    """One error, as a document and (each process costs seconds: where told) for people; nothing half-published."""
    document = project.tandem(*args, "--json")
    assert document.code == code, document
    assert set(document.json) == {"error"}, document
    error = document.json["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == kind
    for name in naming:
        assert name in error["message"] + error["hint"], error
    if plain:
        told = project.tandem(*args)
        assert (told.code, told.out) == (code, ""), told
        assert "Traceback" not in told.err
        hint = f"  → {error['hint']}\n" if error["hint"] else ""
        assert told.err.endswith(f"Error: {error['message']}\n{hint}"), told
    assert project.published() == []


# The command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "naming"),
    [
        (("run", "--reproces", "all"), ("--reproces", "--reprocess", "tandem run --help")),
        (("rum",), ("'rum'", "'run'", "tandem --help")),
        (("runs", "lst"), ("'lst'", "'list'")),
        (("run", "--limit-rows", "many"), ("--limit-rows", "integer")),
        (("run", "--limit-rows", "0"), ("--limit-rows",)),
        (("run", "one.yaml", "two.yaml"), ("two.yaml",)),
        (("run", "--reprocess", "some"), ("--reprocess some", "missing, failed, stale, all")),
        (("run", "--watch-timeout", "soon"), ("--watch-timeout soon", "30s")),
        (("run", "--partition", "day=2026-11-01", "--last", "3d"), ("--partition", "--last")),
        (("run", "nowhere.yaml"), ("nowhere.yaml: no such file", "tandem init")),
        (("check", "nowhere.yaml"), ("nowhere.yaml: no such file",)),
        (("try", "nowhere.yaml"), ("nowhere.yaml: no such file",)),
        (("outputs", "files", "nowhere.yaml"), ("nowhere.yaml: no such file",)),
    ],
    ids=" ".join,
)
def test_the_command_line_is_wrong(tmp_path: Path, args: tuple[str, ...], naming: tuple[str, ...]) -> None:
    kind = "SpecError" if "nowhere.yaml" in args else "UsageError"
    refused(Project.make(tmp_path), *args, code=2, naming=naming, kind=kind)


@pytest.mark.parametrize(
    ("args", "naming"),
    [
        (("--partition", "day=2026-11-09"), ("--partition day=2026-11-09", "day=2026-11-01")),
        (("--from-date", "yesterday"), ("--from-date yesterday", "2026-11-01")),
        (("--from-date", "2026-11-03", "--to-date", "2026-11-01"), ("2026-11-03", "not before", "2026-11-01")),
        (("--from-date", "2027-01-01"), ("No partition", "2027-01-01", "day=2026-11-01 … day=2026-11-03")),
        (("--last", "many"), ("--last many", "7d")),
        (("--last", "3d", "--from-date", "2026-11-01"), ("--last", "--from-date")),
        (("--name", "a/b"), ("--name 'a/b'", "letters")),
        (("--detach",), ("--detach", "tandem dev", "TEMPORAL_ADDRESS")),
        (("--fresh",), ("--fresh", "--yes")),
    ],
    ids=" ".join,
)
def test_what_is_asked_of_a_run_cannot_be(tmp_path: Path, args: tuple[str, ...], naming: tuple[str, ...]) -> None:
    project = Project.make(tmp_path, count=9)
    refused(project, "run", *args, code=2, naming=naming, kind="UsageError", plain=args[0] in ("--detach", "--last"))
    assert not (tmp_path / ".home" / "temporal.db").exists(), "no server is started for what cannot be"


def test_without_arguments_the_help(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    for args in ((), ("runs",), ("outputs",)):
        told = project.tandem(*args)
        assert told.code == 2
        assert "Usage: tandem" in told.err
    assert "A first day, in this order:" in project.tandem("--help").ok().out
    assert project.tandem("--version").ok().out.startswith("tandem ")


# Spec, source, sink ------------------------------------------------------------------------------------------------


def _spec(*path: str | int, value: Any) -> Break:
    def change(project: Project) -> None:
        at: Any = project.spec
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value

    return change


def _bytes(name: str, content: bytes) -> Break:
    def change(project: Project) -> None:
        (project.folder / name).write_bytes(content)
        project.spec["source"]["path"] = name

    return change


def _rows(at: int, column: str, value: Any) -> Break:
    def change(project: Project) -> None:
        table = rows(9)
        table[at][column] = value
        write_csv(project.folder / "rows.csv", table)

    return change


def _graph(code: str | None) -> Break:
    """A stage of the user's own in `mine.py`."""

    def change(project: Project) -> None:
        if code is not None:
            (project.folder / "mine.py").write_text(code)
        stage = {"name": "own", "uses": "mine:graph", "inputs": {"q": "body"}, "output": {"draft": "str"}}
        project.spec["stages"] = [stage]

    return change


_GRAPH = """
from {typing} import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict):
    q: str
    other: str

graph = StateGraph(State)
graph.add_node("think", lambda state: {{"other": state["q"]}})
graph.add_edge(START, "think")
graph.add_edge("think", END)
"""


def _typo(project: Project) -> None:
    project.stage["promt"] = project.stage.pop("prompt")
    project.spec["partition"]["every"] = "dya"


def _no_source(project: Project) -> None:
    (project.folder / "rows.csv").unlink()


def _file_for_a_sink(project: Project) -> None:
    (project.folder / "out").write_text("in the way")


@pytest.mark.parametrize(
    ("wrong", "code", "kind", "naming"),
    [
        pytest.param(_no_source, 2, "SourceError", ("source.path", "rows.csv"), id="no source"),
        pytest.param(_bytes("rows.csv", b""), 2, "SourceError", ("rows.csv", "empty"), id="empty file"),
        pytest.param(_bytes("a.parquet", b"PAR1 no PAR1"), 2, "SourceError", ("a.parquet", "Parquet"), id="no Parquet"),
        pytest.param(
            _spec("stages", 0, "prompt", value="{{ bdy }}"), 2, "SpecError", ("triage", "'bdy'", "body"), id="prompt"
        ),
        pytest.param(_spec("source", "key", value=["idd"]), 2, "SourceError", ("source.key", "'idd'", "id"), id="key"),
        pytest.param(
            _spec("partition", "column", value="created"), 2, "SourceError", ("partition.column", "'created'"),
            id="partition column",
        ),
        pytest.param(
            _spec("partition", "column", value="body"), 2, "SourceError", ("'body'", "text", "source.columns"),
            id="partition type",
        ),
        pytest.param(_rows(4, "created_at", ""), 2, "SourceError", ("'created_at'", "null", "nulls: own"), id="null"),
        pytest.param(
            _spec("stages", 0, "uses", value="extrakt"), 2, "SpecError", ("triage", "'extrakt'", "extract"), id="stage"
        ),
        pytest.param(_graph(None), 2, "SpecError", ("own", "'mine'", "no module"), id="graph without module"),
        pytest.param(_graph("x = 1\n"), 2, "SpecError", ("own", "'graph'", "x"), id="graph without attribute"),
        pytest.param(_graph("1 / 0\n"), 2, "SpecError", ("own", "'mine'", "ZeroDivisionError"), id="graph raises"),
        pytest.param(_graph("graph = 3\n"), 2, "SpecError", ("mine:graph", "LangGraph"), id="no graph"),
        pytest.param(
            _graph(_GRAPH.format(typing="typing")), 2, "SpecError", ("own", "'draft'", "other"), id="graph's output"
        ),
        pytest.param(
            _graph(_GRAPH.format(typing="typing_extensions")), 2, "SpecError", ("own", "'draft'", "other"),
            id="graph's output, typing_extensions",
        ),
        pytest.param(_file_for_a_sink, 4, "StoreRefused", ("sink.path = 'out'", "a file is where"), id="sink"),
        pytest.param(
            _spec("stages", 0, "model", value="openai:m"), 2, "UsageError", ("triage", "openai:m", "OPENAI_API_KEY"),
            id="no model key",
        ),
        pytest.param(
            _typo, 2, "SpecError", ("tandem.yaml:", "promt", "'prompt'", "'dya'", "'day'"), id="two typos at once"
        ),
    ],
)  # fmt: skip
def test_spec_source_or_sink_is_wrong(
    tmp_path: Path, wrong: Break, code: int, kind: str, naming: tuple[str, ...]
) -> None:
    project = Project.make(tmp_path, count=9)
    wrong(project)
    project.write()
    refused(project, "run", code=code, naming=naming, kind=kind, plain=kind == "StoreRefused" or "promt" in naming)
    if code == 2:
        assert not (tmp_path / "out" / "data").exists()


def test_duplicate_keys_fail_their_partition_and_no_other(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    _rows(3, "id", 0)(project)
    told = project.tandem("run", "--json")
    assert told.code == 1, told
    assert told.json["state"] == "failed"
    assert told.json["partitions"] == {
        "total": 3, "published": 2, "unchanged": 0, "failed": 1, "cancelled": 0, "not_run": 0, "retired": 0,
    }  # fmt: skip
    (failure,) = told.json["failures"]
    assert (failure["partition"], failure["error"]) == ("day=2026-11-01", "DuplicateKeys")
    assert "id=0" in failure["message"]
    counts = told.json["rows"]
    assert counts["ok"] == 6
    assert counts["in"] == counts["ok"] + counts["unfinished"]
    assert not (tmp_path / "out" / "data" / "day=2026-11-01").exists()
    plain = project.tandem("run", "-q")
    assert (plain.code, plain.out) == (1, "")
    assert plain.err.startswith("✗ day=2026-11-01: DuplicateKeys: two rows have the key id=0."), plain


# Servers that are not there ----------------------------------------------------------------------------------------


def test_servers_that_cannot_be_reached(tmp_path: Path) -> None:
    temporal, s3 = free_ports(2)
    project = Project.make(tmp_path, count=9)
    project.env = {"TEMPORAL_ADDRESS": f"127.0.0.1:{temporal}"}
    naming: tuple[str, ...] = (f"127.0.0.1:{temporal}", "TEMPORAL_ADDRESS")
    for command in ("check", "worker"):
        told = project.tandem(command, timeout_s=30)
        assert told.code == 4, told
        assert told.err.count("Error: ") == 1
        assert all(name in told.err for name in naming), told
    refused(project, "run", code=4, naming=naming, kind="ConnectionFailed")

    project.env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_REGION": "us-east-1",
    }  # fmt: skip
    project.spec["sink"]["path"] = "s3://bucket/tickets"
    project.write()
    naming = ("sink.path = 's3://bucket/tickets'", f"http://127.0.0.1:{s3}", "AWS_ENDPOINT_URL")
    refused(project, "run", code=4, naming=naming, kind="StoreError")
    project.spec["source"]["path"] = "s3://bucket/tickets.csv"
    project.spec["sink"]["path"] = "out"
    project.write()
    refused(
        project, "run", code=4, naming=("s3://bucket/tickets.csv", "AWS_ENDPOINT_URL"), kind="StoreError", plain=False
    )


def test_a_provider_that_never_answers(tmp_path: Path) -> None:
    project = Project.make(tmp_path, count=9, model="openai:gpt-5-mini")
    (closed,) = free_ports(1)
    project.env = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": f"http://127.0.0.1:{closed}/v1"}
    told = project.tandem("run", "--json", timeout_s=400)
    assert told.code == 4, told
    assert told.json["error"]["code"] == "ConnectionFailed"
    assert "30 s" in told.json["error"]["message"]
    assert "waiting: " in told.err
    assert project.published() == []


# Another's sink, another's run -------------------------------------------------------------------------------------


def test_the_sink_of_another_pipeline(tmp_path: Path) -> None:
    project = Project.make(tmp_path, count=9)
    project.tandem("run", "-q").ok()
    project.spec["name"] = "others"
    project.write()
    told = project.tandem("run", "--json")
    assert (told.code, told.json["error"]["code"]) == (2, "SinkError")
    assert "'tickets'" in told.json["error"]["message"]
    assert "'others'" in told.json["error"]["message"]


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    project = Project.make(tmp_path, count=9)
    naming = ("Nothing has run", "tandem run")
    refused(project, "runs", "show", code=2, naming=naming, kind="UsageError")
    refused(project, "runs", "watch", code=2, naming=naming, kind="UsageError", plain=False)
    assert project.tandem("runs", "list", "--json").ok().json == []
    assert project.tandem("outputs", "ls", "--json").ok().json == []
    assert project.tandem("outputs", "files").ok() == Result(
        0, "", "Nothing is published yet. Start with: tandem run\n"
    )
    refused(
        project, "outputs", "files", "day=1", code=2, naming=("day=1", "outputs ls"), kind="UsageError", plain=False
    )
    project.tandem("run", "-q", "--name", "first").ok()
    told = project.tandem("runs", "show", "second", "--json")
    assert told.code == 2
    assert "'second'" in told.json["error"]["message"]
    (project.folder / "tandem.yaml").unlink()
    (project.folder / ".home" / "pipelines" / "tickets.json").unlink()
    nothing = project.tandem("runs", "list")
    assert nothing.code == 2
    assert "tandem init" in nothing.err
