"""extract: columns from text.

START → ask → check ─ fits → sure enough? ─ yes ─→ END
          ↑      │                └─ no: a person is asked, who corrects or confirms → END
          │      └─ does not: repair ─┐
          └───────────────────────────┘   at most twice, with the validation error; then the row is rejected

Sure enough is what `with: {confidence: column, ask_below: 0.6}` says; without it every answer is.
"""

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import HumanMessage
from pydantic import Field

from stages.contract import Build, GraphStage, Options
from stages.graphs.toolkit.assemble import Made, answer_format, doubt_of, finished
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import ModelQuestion, asking_graph

VERSION = "extract-1"


class ExtractOptions(Options):
    confidence: str | None = Field(default=None, description="the float output that says how sure the model is")
    ask_below: float | None = Field(default=None, ge=0, le=1, description="less sure than this: a person is asked")


def build(wanted: Build) -> GraphStage:
    """The stage of a spec that `uses: extract`. Raises SpecError."""
    options = wanted.options(ExtractOptions)
    form = answer_format(wanted)
    doubt = doubt_of(wanted, form.fields, options.confidence, options.ask_below, None)
    prompts = Prompts(wanted)

    def first(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": [*prompts.system(row), HumanMessage(prompts.text(row))]}

    graph = asking_graph(ModelQuestion(wanted, form), doubt=doubt)
    return finished(wanted, Made(VERSION, options, form, prompts, graph, first))
