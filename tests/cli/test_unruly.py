"""Rows that misbehave: each costs itself at most, in one command, whose stdout is one document."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, Result, write_csv
from tests.cli.test_run import check_report

pytestmark = pytest.mark.timeout(900)
ROWS, GUILTY = 40, (7, 23)
KILLS = {"die": "ended with 9", "leave": "ended with 0", "abort": "SIGABRT", "segfault": "SIGSEGV", "faulthandler": "S"}
HARMLESS = ("fork", "thread", "print", "block", "spin", "interpreter", "change")
NODES = ("graph", "threaded")


def unruly(folder: Path, kind: str, node: str, count: int = ROWS) -> Project:
    shutil.copy(Path(__file__).parent / "unruly.py", folder / "unruly.py")
    write_csv(
        folder / "rows.csv", [{"id": at, "text": f"{kind if at in GUILTY else 'row'} {at}"} for at in range(count)]
    )
    project = Project(folder)
    project.spec = {
        "name": "unruly",
        "source": {"path": "rows.csv", "key": ["id"]},
        "stages": [{"name": "u", "uses": f"unruly:{node}", "output": {"reply": "str"}}],
        "sink": {"path": "out"},
    }
    project.write()
    return project


def run(project: Project) -> tuple[Result, dict[str, Any]]:
    told = project.tandem("run", "--json", timeout_s=300).ok()
    return told, check_report(told.json)


def is_full_size(kind: str, node: str) -> bool:
    return (kind, node) not in {("die", "graph"), ("segfault", "threaded"), ("fork", "graph"), ("block", "graph")}


def pairs(kinds: Any) -> list[Any]:
    """Every kind in every kind of node; most of them for `make prove` only."""
    marks = {True: [pytest.mark.prove], False: []}
    return [pytest.param(k, n, marks=marks[is_full_size(k, n)]) for k in kinds for n in NODES]


@pytest.mark.parametrize(("kind", "node"), pairs(KILLS))
def test_a_row_that_kills_its_process_is_rejected_and_the_rest_is_published(
    tmp_path: Path, kind: str, node: str
) -> None:
    project = unruly(tmp_path, kind, node)
    _, report = run(project)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (ROWS - 2, 2)
    (rejects,) = project.tandem("rejects", "ls", "--json").ok().json
    assert (rejects["error"], rejects["rows"]) == ("killed_worker", 2)
    assert KILLS[kind] in rejects["message"]


@pytest.mark.parametrize(("kind", "node"), pairs(HARMLESS))
def test_a_row_that_only_disturbs_is_published_like_the_others(tmp_path: Path, kind: str, node: str) -> None:
    told, report = run(unruly(tmp_path, kind, node))
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (ROWS, 0)
    if kind in ("block", "spin") and node == "graph":
        assert "stage u, node node, row " in told.err
        assert "blocks the event loop; write it as `def`, or await" in told.err


@pytest.mark.parametrize("node", ["graph", pytest.param("threaded", marks=pytest.mark.prove)])
def test_a_row_of_its_own_workflow_that_kills_its_process_is_rejected_too(tmp_path: Path, node: str) -> None:
    """`placement: node`: each row is a workflow, each step of its graph an activity."""
    project = unruly(tmp_path, "die", node, 30)
    project.spec["stages"][0]["placement"] = "node"
    project.write()
    _, report = run(project)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (28, 2)
    (rejects,) = project.tandem("rejects", "ls", "--json").ok().json
    assert (rejects["error"], rejects["rows"]) == ("killed_worker", 2)


def test_many_rows_that_kill_do_not_use_up_the_attempts_of_their_batch(tmp_path: Path) -> None:
    project = unruly(tmp_path, "row", "graph", 60)
    rows = [{"id": at, "text": f"{'die' if at % 4 == 0 else 'row'} {at}"} for at in range(60)]
    write_csv(tmp_path / "rows.csv", rows)
    project.spec["limits"] = {"rows_in_flight": 2}
    project.write()
    _, report = run(project)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (45, 15)


def test_a_row_that_takes_too_long_is_rejected_and_its_thread_is_left_behind(tmp_path: Path) -> None:
    project = unruly(tmp_path, "block", "threaded")
    project.env["UNRULY_BLOCK_S"] = "3600"
    project.spec["stages"][0]["row_timeout"] = "2s"
    project.write()
    began = time.monotonic()
    told, report = run(project)
    assert time.monotonic() - began < 200
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (ROWS - 2, 2)
    assert "its thread cannot be stopped: the process finishes its rows and is replaced" in told.err


def test_a_row_that_allocates_more_than_the_process_may_have_is_rejected(tmp_path: Path) -> None:
    """4 GB under RLIMIT_AS of 2 GB: Python raises MemoryError, which is the row's own error."""
    project = unruly(tmp_path, "bounded", "graph")
    _, report = run(project)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (ROWS - 2, 2)
    (rejects,) = project.tandem("rejects", "ls", "--json").ok().json
    assert (rejects["error"], rejects["rows"]) == ("MemoryError", 2)


def test_a_row_whose_library_aborts_for_lack_of_memory_is_rejected(tmp_path: Path) -> None:
    project = unruly(tmp_path, "abrupt", "threaded")
    _, report = run(project)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (ROWS - 2, 2)
    (rejects,) = project.tandem("rejects", "ls", "--json").ok().json
    assert (rejects["error"], "SIGABRT" in rejects["message"]) == ("killed_worker", True)


@pytest.mark.prove
def test_a_row_that_holds_more_than_max_memory_for_a_moment_is_published(tmp_path: Path) -> None:
    """1 GB, twice, with limits.max_memory of 600 MB: the process finishes its rows, and another takes its place."""
    project = unruly(tmp_path, "large", "threaded")
    project.spec["limits"] = {"max_memory": "600MB"}
    project.write()
    told, report = run(project)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (ROWS, 0)
    assert "MB of 600 MB: the process finishes its rows and is replaced" in told.err


IMPORTS = {
    "exits": ("raise SystemExit(3)", "raised SystemExit: 3"),
    "interrupts": ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    "dies": ("import os; os._exit(4)", "ended the process: it ended with 4"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "ended the process: it was killed by SIGSEGV"),
}


@pytest.mark.parametrize("kind", IMPORTS)
@pytest.mark.parametrize("command", ["run", pytest.param("check", marks=pytest.mark.prove)])
def test_a_module_that_cannot_be_imported_is_a_sentence(tmp_path: Path, kind: str, command: str) -> None:
    code, sentence = IMPORTS[kind]
    project = unruly(tmp_path, "row", "graph")
    (tmp_path / "unruly.py").write_text(f"print('imported')\n{code}\n")
    told = project.tandem(command, "--json")
    assert told.code == 2, told
    assert sentence in told.json["error"]["message"]
    assert told.json["error"]["message"].startswith("stage u")


def test_a_module_may_change_its_process_when_it_is_imported(tmp_path: Path) -> None:
    project = unruly(tmp_path, "row", "graph")
    changes = "\nmisbehave('change')\nmisbehave('print')\nimport locale\nlocale.setlocale(locale.LC_ALL, 'C')\n"
    with (tmp_path / "unruly.py").open("a") as file:
        file.write(changes)
    told, report = run(project)
    assert report["rows"]["ok"] == ROWS
    assert "from a node" in told.err


@pytest.mark.parametrize(
    ("kind", "node"),
    [("die", "graph"), ("segfault", "threaded"), pytest.param("abort", "graph", marks=pytest.mark.prove)],
)
def test_a_row_that_kills_its_process_ends_a_trial_with_a_sentence(tmp_path: Path, kind: str, node: str) -> None:
    project = unruly(tmp_path, kind, node)
    told = project.tandem("try", "--rows", "10", "--json")
    assert (told.code, told.json["error"]["code"]) == (1, "TrialEnded"), told
    assert KILLS[kind] in told.json["error"]["message"]
    assert "stage u, row " in told.json["error"]["message"]


@pytest.mark.parametrize("node", NODES)
def test_a_row_that_wants_to_exit_is_rejected_in_a_trial(tmp_path: Path, node: str) -> None:
    project = unruly(tmp_path, "row", node)
    with (tmp_path / "unruly.py").open("a") as file:
        file.write(
            "\n\ndef misbehave(text):\n    print('tried')\n    if text.endswith(' 1'):\n        raise SystemExit(3)\n"
        )
    told = project.tandem("try", "--rows", "3", "--json").ok()
    assert [row["stages"]["u"]["status"] for row in told.json["rows"]] == ["ok", "rejected", "ok"]
    assert told.err.count("tried") == 3  # rows print at once, so that some may share a line
    assert told.err.startswith("[try] tried")


FACTORIES = {
    "dies": ("import os; os._exit(4)", "calling the factory of the graph ended the process: it ended with 4"),
    "exits": ("raise SystemExit(3)", "calling unruly:graph raised SystemExit: 3"),
}


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize(
    "command", ["try", "plan", *(pytest.param(name, marks=pytest.mark.prove) for name in ("check", "run"))]
)
def test_a_factory_that_ends_its_process_is_a_sentence(tmp_path: Path, kind: str, command: str) -> None:
    code, sentence = FACTORIES[kind]
    project = unruly(tmp_path, "row", "graph")
    with (tmp_path / "unruly.py").open("a") as file:
        file.write(f"\n\ndef graph():\n    {code}\n")
    told = project.tandem(command, "--json")
    assert (told.code, told.json["error"]["code"]) == (2, "SpecError"), told
    assert told.json["error"]["message"].startswith("stage u")
    assert sentence in told.json["error"]["message"]
