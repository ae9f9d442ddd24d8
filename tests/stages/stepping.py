"""Graphs of a user's with nodes of many kinds, for tests; `ran` are the nodes that were run."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command, Send

ran: list[str] = []


class State(TypedDict, total=False):
    text: str
    rounds: int
    found: Annotated[list[str], operator.add]
    word: str


@dataclass
class Context:
    model: BaseChatModel


async def plan(state: State, runtime: Runtime[Context]) -> State:
    ran.append("plan")
    await runtime.context.model.ainvoke("plan")
    return {"rounds": state.get("rounds", 0) + 1}


def sends(state: State) -> list[Send]:
    return [Send("tool", {"text": part}) for part in state["text"].split()]


async def tool(state: State, runtime: Runtime[Context]) -> State:
    ran.append(f"tool:{state['text']}")
    said = await runtime.context.model.ainvoke(f"look for {state['text']}")
    if state["text"] == "raise":
        raise ValueError("the tool failed")
    return {"found": [f"{state['text']}:{len(str(said.content)) > 0}"]}


def join(state: State) -> State:
    ran.append("join")
    return {"word": ", ".join(sorted(state["found"]))}


async def last(state: State, runtime: Runtime[Context]) -> State:
    ran.append("last")
    await runtime.context.model.ainvoke("plan")  # the same as the first, and another call
    return {"word": f"{state['word']} after {state['rounds']}"}


def again(state: State) -> str:
    return "plan" if state["text"] == "loop" and state["rounds"] < 2 else "last"


def graph() -> Any:
    """plan → a tool a word → join → last, or once more"""
    builder = StateGraph(State, context_schema=Context)
    for node in (plan, tool, join, last):
        builder.add_node(node)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", sends, ["tool"])
    builder.add_edge("tool", "join")
    builder.add_conditional_edges("join", again, ["plan", "last"])
    builder.add_edge("last", END)
    return builder.compile()


@dataclass
class Note:
    text: str


class Rich(TypedDict, total=False):
    text: str
    messages: Annotated[list[AnyMessage], add_messages]
    note: Note
    word: str


async def talk(state: Rich, runtime: Runtime[Context]) -> Command[str]:
    said = await runtime.context.model.ainvoke(state["text"])
    messages = [HumanMessage("hello"), said, HumanMessage("bye")]
    return Command(update={"messages": messages, "note": Note(state["text"])}, goto="tell")


def tell(state: Rich) -> Rich:
    return {"word": f"{len(state['messages'])} messages, {state['note']}"}


def rich() -> Any:
    builder = StateGraph(Rich, context_schema=Context)
    builder.add_node("talk", talk, destinations=("tell",))
    builder.add_node("tell", tell)
    builder.add_edge(START, "talk")
    return builder.compile()


def make(state: State) -> dict[str, Any]:
    return {"found": [(part for part in state["text"])]}


def odd() -> Any:
    builder = StateGraph(State)
    builder.add_node("make", make)
    builder.add_edge(START, "make")
    return builder.compile()
