"""`tandem review`: rows that wait for a person, from the first question to the generation that has them."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from tests.cli.support import Project, eventually

GRAPH = """
    from typing import TypedDict
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import interrupt

    class State(TypedDict, total=False):
        body: str
        word: str

    def decide(state: State) -> State:
        if "number 1" not in state["body"]:
            return {"word": "by itself"}
        return {"word": str(interrupt({"ask": "What of it?", "text": state["body"]}))}

    graph = StateGraph(State)
    graph.add_node("decide", decide)
    graph.add_edge(START, "decide")
    graph.add_edge("decide", END)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Twelve rows, of which 1, 10 and 11 ask."""
    project = Project.make(tmp_path, count=12)
    (tmp_path / "asking.py").write_text(dedent(GRAPH))
    project.spec["stages"] = [{"name": "ask", "uses": "asking:graph", "output": {"word": "str"}}]
    project.write()
    return project


def test_answers_one_by_one_and_by_a_file(project: Project) -> None:
    tried = project.tandem("try", "--rows", "12").ok()
    assert "asks: {" in tried.out
    first = project.tandem("run", "--json").ok().json
    assert (first["rows"]["ok"], first["rows"]["pending"], first["rows"]["out"]) == (9, 3, 9)

    listed = project.tandem("review", "ls").ok()
    assert "day=2026-11-02  ask: 2 of 2 to be answered" in listed.out
    questions = project.tandem("review", "ls", "--json").ok().json
    assert [question["key"]["id"] for question in questions] == [1, 10, 11]
    shown = project.tandem("review", "show", "--row", "10").ok()
    assert "body: message number 10 about a thing" in shown.out

    refused = project.tandem("review", "answer", "--row", "10", "--answer", "null", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "UsageError")
    assert project.tandem("review", "answer", "--row", "7", "--answer", "yes").code == 2
    told = project.tandem("review", "answer", "--row", "10", "--answer", "keep", "--json").ok().json
    assert told == {"answered": 1, "partitions": {"day=2026-11-02": 1}, "unanswered": 2}

    project.tandem("review", "export", "questions.json").ok()
    file = project.folder / "questions.json"
    asked = json.loads(file.read_text())
    file.write_text(json.dumps([*asked, {"id": "nobody", "answer": "x"}]))
    wrong = project.tandem("review", "import", "questions.json")
    assert (wrong.code, "object 4: id 'nobody'" in wrong.err) == (2, True)
    second = project.tandem("run", "--json").ok().json
    assert (second["rows"]["in"], second["rows"]["pending"]) == (4, 1), "nothing of the wrong file was taken"
    assert second["partitions"]["unchanged"] == 2

    project.tandem("review", "export", "questions.csv").ok()
    table = project.folder / "questions.csv"
    table.write_text(
        "".join(
            f"{line}said\n" if line.endswith(",") else f"{line}\n" for line in table.read_text().split("\n") if line
        )
    )
    project.tandem("review", "import", "tandem.yaml", "questions.csv").ok()
    third = project.tandem("run", "--json").ok().json
    assert (third["rows"]["pending"], third["partitions"]["published"]) == (0, 2)
    assert project.tandem("review", "ls", "--json").ok().json == []


def test_a_run_waits_for_its_people_and_goes_on_with_what_they_say(project: Project) -> None:
    project.spec["stages"][0]["pending"] = "wait"
    project.write()
    with project.start("run", "--json") as run:
        eventually(lambda: len(project.tandem("review", "ls", "--json").ok().json) == 3, "three questions")
        assert [path for path in project.published() if "day=2026-11-02" in str(path)] == []
        for row in ("1", "10", "11"):
            told = project.tandem("review", "answer", "--row", row, "--answer", f"said {row}").ok()
            assert "goes on by itself" in told.err
        report = json.loads(run.wait().out)
    assert (report["rows"]["ok"], report["rows"]["pending"], report["partitions"]["published"]) == (12, 0, 3)
    assert project.tandem("review", "ls", "--json").ok().json == []
