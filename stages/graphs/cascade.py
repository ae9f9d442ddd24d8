"""cascade: a cheap model first, a better one where that is not good enough.

START → cheap ─ fits, and is sure enough ─→ END
          └─ does not fit, refuses, or is below `below` ─→ main ─→ END   (repaired at most twice, then rejected)

Who answered which row is a column if asked for (`answered_by`); what each model was asked and cost is in the report.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from pydantic import Field

from schemas.errors import RowError, SpecError
from stages.contract import BY, Build, GraphStage, Options
from stages.graphs.toolkit.assemble import Made, answer_format, check_confidence, finished, own_column
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import Answer, ModelQuestion

VERSION = "cascade-1"


class CascadeOptions(Options):
    confidence: str | None = Field(default=None, description="the float output that says how sure the model is")
    below: float | None = Field(default=None, ge=0, le=1, description="less sure than this: main is asked")
    repairs: int = Field(default=0, ge=0, le=2, description="repairs of the cheap model's answer, before main is asked")
    answered_by: str | None = Field(default=None, description="a column for the name of the model that answered")


class State(TypedDict, total=False):
    """`why` main is asked; an answer that stands has none."""

    messages: list[BaseMessage]
    answer: Answer
    answered_by: str
    why: str


def build(wanted: Build) -> GraphStage:
    """The stage of a spec that `uses: cascade`. Raises SpecError."""
    options = wanted.options(CascadeOptions)
    form = answer_format(wanted)
    check_confidence(wanted, form.fields, options.confidence)
    if (options.below is None) != (options.confidence is None):
        raise SpecError(f"{wanted.where}: with.below and with.confidence belong together.")
    added = own_column(wanted, form.fields, "answered_by", options.answered_by, "str")
    prompts = Prompts(wanted)
    cheap, main = ModelQuestion(wanted, form, "cheap"), ModelQuestion(wanted, form, "main")

    def unsure(answer: Answer) -> bool:
        if options.below is None or options.confidence is None:
            return False
        sure = answer[options.confidence]
        return sure is None or bool(sure < options.below)

    async def ask_cheap(state: State) -> State:
        try:
            answer = await cheap.answer(state["messages"], repairs=options.repairs)
        except RowError as exc:
            return {"why": exc.kind}
        return {"why": "unsure"} if unsure(answer) else {"answer": answer, "answered_by": cheap.name}

    async def ask_main(state: State) -> State:
        return {"answer": await main.answer(state["messages"]), "answered_by": main.name}

    def first(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": [*prompts.system(row), HumanMessage(prompts.text(row))]}

    def harvest(state: Mapping[str, Any]) -> Answer:
        by = {options.answered_by: state["answered_by"]} if options.answered_by else {}
        return {**state["answer"], **by, BY: "main" if state.get("why") else "cheap"}

    builder = StateGraph(State)
    builder.add_node("cheap", ask_cheap)
    builder.add_node("main", ask_main)
    builder.add_edge(START, "cheap")
    builder.add_conditional_edges("cheap", lambda state: "main" if state.get("why") else END, ["main", END])
    builder.add_edge("main", END)
    made = Made(VERSION, options, form, prompts, builder.compile(), first, harvest, added, calls=(1, 2))
    return finished(wanted, made)
