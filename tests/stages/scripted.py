"""A graph whose answers follow from its input alone: answers, rejects and questions, without a model."""

import zlib
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt


class State(TypedDict, total=False):
    n: int
    part: str | None
    word: str
    score: int


class Context(TypedDict):
    seed: int


async def answer(state: State, runtime: Runtime[Context]) -> State:
    text = f"{state['n']} {state.get('part')}"
    drawn = zlib.crc32(f"{runtime.context['seed']} {text}".encode()) % 6
    if drawn == 0:
        raise ValueError("not this one")
    if drawn == 1:
        interrupt(f"What of {text}?")
    return {"word": text, "score": drawn}


def graph() -> Any:
    """Of six inputs one is rejected, one asks a person, four are answered."""
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile()
