"""Graphs of a user's that ask a person, for tests."""

import operator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel


class Kind(Enum):
    BILLING = "billing"
    BUG = "bug"


class Sorted(BaseModel):
    """Its schema refers to a definition of its own."""

    category: Kind
    sure: float | None


class State(TypedDict, total=False):
    text: str
    draft: str
    word: str
    said: Annotated[list[str], operator.add]


class Said(TypedDict):
    said: Annotated[list[str], operator.add]


@dataclass
class Context:
    model: BaseChatModel


async def draft(state: State, runtime: Runtime[Context]) -> State:
    said = await runtime.context.model.ainvoke(f"draft {state['text']}")
    return {"draft": str(said.content)}


async def review(state: State, runtime: Runtime[Context]) -> State:
    """Asks its model before and after each question, twice the same."""
    model = runtime.context.model
    await model.ainvoke(f"check {state['text']}")
    first = interrupt({"text": state["text"], "ask": "fine?"})
    await model.ainvoke(f"check {state['text']}")
    if first == "no":
        raise ValueError("a person refused it")
    if first == "edit":
        word = interrupt("which word?")
        return {"word": str(word)}
    return {"word": str(first)}


def plain() -> Any:
    """draft → review → word"""
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("draft", draft)
    builder.add_node("review", review)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "review")
    builder.add_edge("review", END)
    return builder.compile()


def each(state: State) -> State:
    return {"said": [f"{state['text']}={interrupt('value of ' + state['text'])}"]}


def fan(state: State) -> list[Send]:
    return [Send("sub" if part.startswith("s") else "each", {"text": part}) for part in state["text"].split()]


def join(state: State) -> State:
    return {"word": " ".join(sorted(state["said"]))}


def parallel() -> Any:
    """A question a word, all at once, some of them in a subgraph."""
    inner = StateGraph(State, output_schema=Said)
    inner.add_node("each", each)
    inner.add_edge(START, "each")
    builder = StateGraph(State)
    builder.add_node("each", each)
    builder.add_node("sub", inner.compile())
    builder.add_node("join", join)
    builder.add_conditional_edges(START, fan, ["each", "sub"])
    builder.add_edge("each", "join")
    builder.add_edge("sub", "join")
    return builder.compile()


async def decide(state: State, runtime: Runtime[Context]) -> State:
    """Asks a person about texts with the word `ask`, its model before and, for these, after."""
    text = state["text"] or ""
    await runtime.context.model.ainvoke(f"draft {text}")
    if "ask" not in text:
        return {"word": "by itself"}
    said = interrupt(f"What of: {text}")
    await runtime.context.model.ainvoke(f"polish {text}")
    if said == "no":
        raise ValueError("a person refused it")
    return {"word": str(said)}


def some() -> Any:
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("decide", decide)
    builder.add_edge(START, "decide")
    return builder.compile()


class Verdict(BaseModel):
    label: Literal["good", "bad"]


def strict(state: State) -> Command[str]:
    verdict = interrupt("label?", response_schema=Verdict)
    return Command(update={"word": verdict.label}, goto=END)


def typed() -> Any:
    builder = StateGraph(State)
    builder.add_node("strict", strict)
    builder.add_edge(START, "strict")
    return builder.compile()


def ask_when_blank(state: State) -> State:
    return {"word": str(interrupt("what was meant?")) if state["text"] is None else "clear"}


def blank() -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", ask_when_blank)
    builder.add_edge(START, "ask")
    return builder.compile()
