"""extract: columns from text.

START → ask → check ─ fits → sure enough? ─ yes ─→ END
          ↑      │                └─ no: a person is asked, who corrects or confirms → END
          │      └─ does not: repair ─┐
          └───────────────────────────┘   at most twice, with the validation error; then the row is rejected

`with: {confidence: column, ask_below: 0.6}` defines sure enough; without it every answer is.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from stages.contract import GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble
from stages.graphs.toolkit.confidence import Confidence, column_of, doubt_of, sureness_of
from stages.graphs.toolkit.examples import example_turns
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.provider_tools import citations_of, column_of_citations, provider_tools
from stages.graphs.toolkit.question import ModelQuestion, question_graph

VERSION = "extract-1"


class ExtractOptions(Options):
    confidence: Confidence | None = Field(default=None, description="the column that says how sure the model is")
    ask_below: float | None = Field(default=None, ge=0, le=1, description="less sure than this: a person is asked")


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: extract`. Raises SpecError."""
    options = setup.options(ExtractOptions)
    form = answer_format(setup)
    sureness = sureness_of(setup, form.fields, options.confidence)
    citations = citations_of(setup, form.fields)
    doubt = doubt_of(setup, options.confidence, options.ask_below, None)
    prompts = Prompts(setup)
    examples = example_turns(setup, prompts, form)

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": [*prompts.system(row), *examples, prompts.question(row)]}

    model = ModelQuestion(setup, form, tools=provider_tools(setup), sureness=sureness, citations=citations)
    question = question_graph(model, doubt=doubt)
    parts = GraphParts(
        VERSION, options, form, prompts, question.build, first_state,
        added_columns=column_of(sureness) | column_of_citations(citations), direct=question.direct,
    )  # fmt: skip
    return assemble(setup, parts)
