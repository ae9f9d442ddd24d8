"""What imports a user's code runs in a process of its own, and is of the code as it is now."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.web.apart import apart
from schemas.errors import SpecError, UsageError

SPEC = """\
name: own
source: {path: t.csv, key: [id]}
partition: {by: files}
stages:
  - {name: s, uses: "graphs:build", model: "offline:lexical", output: {word: str}}
sink: {path: out}
"""
GRAPH = """\
from langgraph.graph import END, START, StateGraph
from typing import TypedDict
print("imported by somebody")
class State(TypedDict):
    text: str
    word: str
def build():
    graph = StateGraph(State)
    graph.add_node("n", lambda state: {"word": "%s"})
    graph.add_edge(START, "n")
    graph.add_edge("n", END)
    return graph.compile()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text("id,text\n1,a\n")
    (tmp_path / "tandem.yaml").write_text(SPEC)
    return tmp_path


async def test_the_code_is_read_again_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    spec, sink = folder / "tandem.yaml", str(folder / "out")
    (folder / "graphs.py").write_text("raise ValueError('not written yet')\n")
    with pytest.raises(SpecError, match="not written yet"):
        await apart("compare", spec, sink)
    (folder / "graphs.py").write_text(GRAPH % "one")
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    (status,) = await apart("compare", spec, sink)
    assert status.due


async def test_errors_come_back_as_they_are(folder: Path) -> None:
    with pytest.raises(UsageError, match="There is no run 'none' here"):
        await apart("resume", str(folder / "out"), "none")
