"""A graph of one's own: two views of a question in parallel, then a draft from both.

START → Send ─→ view (one an angle) ─→ draft → END
"""

import operator
from dataclasses import dataclass
from typing import Annotated, TypedDict

from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import BaseModel


@dataclass
class Context:
    """What Tandem gives: the models by role, and `context` of the spec."""

    models: dict[str, BaseChatModel]
    house_style: str = "plain"


class View(BaseModel):
    angry: bool
    note: str


class State(TypedDict, total=False):
    question: str
    angle: str
    views: Annotated[list[View], operator.add]
    draft: str
    tone: str


def angles(state: State) -> list[Send]:
    return [Send("view", {"question": state["question"], "angle": angle}) for angle in ("facts", "mood")]


async def view(state: State, runtime: Runtime[Context]) -> State:
    model = runtime.context.models["cheap"].with_structured_output(View)
    found = await model.ainvoke(f"Look at the {state['angle']} of this question:\n{state['question']}")
    assert isinstance(found, View)
    return {"views": [found]}


async def draft(state: State, runtime: Runtime[Context]) -> State:
    notes = "\n".join(view.note for view in state["views"])
    style = runtime.context.house_style
    said = await runtime.context.models["main"].ainvoke(f"Answer in a {style} way:\n{state['question']}\n{notes}")
    return {"draft": str(said.content), "tone": "angry" if any(v.angry for v in state["views"]) else "calm"}


graph = StateGraph(State, context_schema=Context)
graph.add_node("view", view)
graph.add_node("draft", draft)
graph.add_conditional_edges(START, angles, ["view"])
graph.add_edge("view", "draft")
graph.add_edge("draft", END)
