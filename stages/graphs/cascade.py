"""cascade: a cheap model first, a better one where that is not good enough.

START → cheap ─ fits, and is sure enough ─→ END
          └─ does not fit, refuses, or is below `below` ─→ main ─→ END   (repaired at most twice, then rejected)

The name of the model that answered a row is a column if `answered_by` names one; calls and cost of each model are in
the report.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from langchain_core.messages import BaseMessage
from langgraph.graph import END, START, StateGraph
from pydantic import Field

from schemas.errors import RowError, SpecError
from stages.contract import BY, GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble, own_column
from stages.graphs.toolkit.confidence import Confidence, column_of, sureness_of
from stages.graphs.toolkit.examples import example_turns
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.provider_tools import citations_of, column_of_citations, provider_tools
from stages.graphs.toolkit.question import Answer, ModelQuestion

VERSION = "cascade-1"


class CascadeOptions(Options):
    confidence: Confidence | None = Field(default=None, description="the column that says how sure the model is")
    below: float | None = Field(default=None, ge=0, le=1, description="less sure than this: main is asked")
    repairs: int = Field(default=0, ge=0, le=2, description="repairs of the cheap model's answer, before main is asked")
    answered_by: str | None = Field(default=None, description="a column for the name of the model that answered")


class State(TypedDict, total=False):
    """`why` is the reason to call `main`; an accepted answer has none."""

    messages: list[BaseMessage]
    answer: Answer
    answered_by: str
    why: str


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: cascade`. Raises SpecError."""
    options = setup.options(CascadeOptions)
    form = answer_format(setup)
    sureness = sureness_of(setup, form.fields, options.confidence, role="cheap")
    if (options.below is None) != (options.confidence is None):
        raise SpecError(f"{setup.where}: with.below and with.confidence belong together.")
    citations = citations_of(setup, form.fields)
    added = own_column(setup, form.fields, "answered_by", options.answered_by, "str") | column_of(sureness)
    added |= column_of_citations(citations)
    prompts = Prompts(setup)
    examples = example_turns(setup, prompts, form)
    tools = provider_tools(setup)
    cheap, main = (
        ModelQuestion(setup, form, role, tools=tools, sureness=sureness, citations=citations)
        for role in ("cheap", "main")
    )

    def unsure(answer: Answer) -> bool:
        if options.below is None or options.confidence is None:
            return False
        sure = answer[options.confidence.column]
        return sure is None or bool(sure < options.below)

    async def ask_cheap(state: State) -> State:
        try:
            answer = await cheap.answer(state["messages"], repairs=options.repairs)
        except RowError as exc:
            return {"why": exc.kind}
        return {"why": "unsure"} if unsure(answer) else {"answer": answer, "answered_by": cheap.name}

    async def ask_main(state: State) -> State:
        return {"answer": await main.answer(state["messages"]), "answered_by": main.name}

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": [*prompts.system(row), *examples, prompts.question(row)]}

    def output_of(state: Mapping[str, Any]) -> Answer:
        by = {options.answered_by: state["answered_by"]} if options.answered_by else {}
        return {**state["answer"], **by, BY: "main" if state.get("why") else "cheap"}

    builder = StateGraph(State)
    builder.add_node("cheap", ask_cheap)
    builder.add_node("main", ask_main)
    builder.add_edge(START, "cheap")
    builder.add_conditional_edges("cheap", lambda state: "main" if state.get("why") else END, ["main", END])
    builder.add_edge("main", END)
    made = GraphParts(VERSION, options, form, prompts, builder.compile, first_state, output_of, added, calls=(1, 2))
    return assemble(setup, made)
