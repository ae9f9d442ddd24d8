"""A graph whose rows misbehave as their text says: in an async node, a sync one, a subgraph that a node runs itself,
and a task that a node leaves behind."""

import asyncio
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Weird(BaseException):
    pass


class State(TypedDict, total=False):
    text: str
    reply: str


RAISED: dict[str, BaseException] = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "Weird": Weird("odd"),
    "BaseExceptionGroup": BaseExceptionGroup("several", [Weird("odd"), ValueError("x")]),
    "ExceptionGroup": ExceptionGroup("some", [ValueError("x")]),
    "Unspeakable": Unspeakable(),
}


def misbehave(text: str) -> None:
    if text in RAISED:
        raise RAISED[text]


def reply(state: State) -> State:
    misbehave(state["text"])
    return {"reply": state["text"].upper()}


async def areply(state: State) -> State:
    await asyncio.sleep(0)
    return reply(state)


async def nested(state: State) -> State:
    found = await graph.ainvoke({"text": state["text"]})
    return {"reply": found["reply"]}


async def forgotten(state: State) -> State:
    async def later() -> None:
        misbehave(state["text"])

    task = asyncio.create_task(later())
    await asyncio.wait([task])
    task.exception()
    return {"reply": state["text"].upper()}


def _built(node: Any) -> Any:
    building = StateGraph(State)
    building.add_node("node", node)
    building.add_edge(START, "node")
    building.add_edge("node", END)
    return building.compile()


graph = _built(areply)
threaded = _built(reply)
inner = _built(nested)
left = _built(forgotten)
