"""extract: columns from text.

START → ask → check ─ fits ────────────→ END
          ↑      └─ does not: repair ─┐
          └───────────────────────────┘   at most twice, with the validation error; then the row is rejected
"""

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import HumanMessage

from stages.asking import Made, Prompts, Question, asking_graph, finished
from stages.contract import Build, GraphStage, Options

VERSION = "extract-1"


def build(wanted: Build) -> GraphStage:
    """The stage of a spec that `uses: extract`. Raises SpecError."""
    from stages.registry import answer_format

    form = answer_format(wanted)
    prompts = Prompts(wanted)

    def first(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": [*prompts.system(row), HumanMessage(prompts.text(row))]}

    graph = asking_graph(Question(wanted, form))
    return finished(wanted, Made(VERSION, wanted.options(Options), form, prompts, graph, first))
