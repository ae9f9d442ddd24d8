"""Graphs of a pipeline that waits for batch jobs: three steps, one of them three nodes at once; one whose question is
another one each time; and one that ends its process between its two steps, for rows whose text is number 3."""

import os
import uuid
from operator import add
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


class Context(TypedDict):
    models: dict[str, Any]


class State(TypedDict, total=False):
    text: str
    gist: str
    views: Annotated[list[str], add]
    reply: str


async def find_gist(state: State, runtime: Runtime[Context]) -> State:
    return {"gist": (await runtime.context["models"]["main"].ainvoke(f"gist of {state['text']}")).text}


def view(name: str) -> Any:
    async def node(state: State, runtime: Runtime[Context]) -> State:
        try:
            model = runtime.context["models"]["main"].with_retry()
            return {"views": [(await model.ainvoke(f"{name} of {state['gist']}")).text]}
        except Exception:
            return {"views": ["none"]}

    return node


def view_in_thread(state: State, runtime: Runtime[Context]) -> State:
    return {"views": [runtime.context["models"]["main"].invoke(f"thread of {state['gist']}").text]}


async def conclude(state: State, runtime: Runtime[Context]) -> State:
    model = runtime.context["models"]["main"]
    return {"reply": (await model.ainvoke("conclude " + " | ".join(sorted(state["views"])))).text}


async def ask_at_random(state: State, runtime: Runtime[Context]) -> State:
    model = runtime.context["models"]["main"]
    return {"reply": (await model.ainvoke(f"{uuid.uuid4()} {state['text']}")).text}


_steps = StateGraph(State, context_schema=Context)
_steps.add_node("find_gist", find_gist)
_steps.add_node("conclude", conclude)
_steps.add_edge(START, "find_gist")
_VIEWS = {"first": view("first"), "second": view("second"), "third": view_in_thread}
for _name, _node in _VIEWS.items():
    _steps.add_node(_name, _node)
    _steps.add_edge("find_gist", _name)
_steps.add_edge(list(_VIEWS), "conclude")
_steps.add_edge("conclude", END)
steps = _steps.compile()

_random = StateGraph(State, context_schema=Context)
_random.add_node("ask", ask_at_random)
_random.add_edge(START, "ask")
_random.add_edge("ask", END)
random = _random.compile()


async def end_process(state: State) -> State:
    if "number 3 " in state["text"]:
        os._exit(9)
    return {"views": [state["gist"]]}


_deadly = StateGraph(State, context_schema=Context)
_deadly.add_node("find_gist", find_gist)
_deadly.add_node("end_process", end_process)
_deadly.add_node("conclude", conclude)
_deadly.add_edge(START, "find_gist")
_deadly.add_edge("find_gist", "end_process")
_deadly.add_edge("end_process", "conclude")
_deadly.add_edge("conclude", END)
deadly = _deadly.compile()
