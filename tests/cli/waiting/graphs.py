"""Graphs of a pipeline that waits for batch jobs: three steps, one of them three nodes at once; and one whose question
is another one each time."""

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
