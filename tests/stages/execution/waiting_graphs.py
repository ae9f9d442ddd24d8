"""Graphs whose nodes do all that could take a parked call for a failure: catch everything, retry, fall back, gather,
run in threads, in loops of their own, with timeouts."""

import asyncio
import uuid
from operator import add
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


class Context(TypedDict):
    models: dict[str, BaseChatModel]


class State(TypedDict, total=False):
    text: str
    parts: Annotated[list[str], add]
    reply: str


def _model(runtime: Runtime[Context]) -> Any:
    return runtime.context["models"]["main"]


def _one_node(node: Any) -> Any:
    return _in_parallel([node])


def _in_parallel(nodes: list[Any], last: Any = None) -> Any:
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("end", last or (lambda state: {"reply": " ".join(sorted(state["parts"]))}))
    for number, node in enumerate(nodes):
        builder.add_node(f"n{number}", node)
        builder.add_edge(START, f"n{number}")
    builder.add_edge([f"n{number}" for number in range(len(nodes))], "end")
    builder.add_edge("end", END)
    return builder.compile()


async def _catches_all(state: State, runtime: Runtime[Context]) -> State:
    for _ in range(3):
        try:
            return {"parts": [(await _model(runtime).ainvoke(f"catch {state['text']}")).text]}
        except BaseException:
            continue
    return {"parts": ["given up"]}


async def _plain(state: State, runtime: Runtime[Context]) -> State:
    return {"parts": [(await _model(runtime).ainvoke(f"plain {state['text']}")).text]}


async def _retries(state: State, runtime: Runtime[Context]) -> State:
    model = _model(runtime).with_retry(stop_after_attempt=5)
    return {"parts": [(await model.ainvoke(f"retry {state['text']}")).text]}


async def _falls_back(state: State, runtime: Runtime[Context]) -> State:
    model = _model(runtime).with_fallbacks([RunnableLambda(lambda _: AIMessage("the fallback"))])
    return {"parts": [(await model.ainvoke(f"fall back {state['text']}")).text]}


async def _gathers(state: State, runtime: Runtime[Context]) -> State:
    model = _model(runtime)
    calls = [model.ainvoke(f"gather {number} {state['text']}") for number in range(3)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    return {"parts": [one.text if isinstance(one, AIMessage) else "none" for one in found]}


async def _times_out(state: State, runtime: Runtime[Context]) -> State:
    try:
        return {"parts": [(await asyncio.wait_for(_model(runtime).ainvoke(f"late {state['text']}"), 0.3)).text]}
    except TimeoutError:
        return {"parts": ["timed out"]}


async def _outlasts_it(state: State) -> State:
    await asyncio.sleep(0.5)
    return {"parts": ["slept"]}


async def _sleeps_first(state: State, runtime: Runtime[Context]) -> State:
    await asyncio.sleep(0.2)
    return {"parts": [(await _model(runtime).ainvoke(f"slow {state['text']}")).text]}


def _in_thread(number: int) -> Any:
    def node(state: State, runtime: Runtime[Context]) -> State:
        try:
            return {"parts": [_model(runtime).invoke(f"thread {number} {state['text']}").text]}
        except Exception:
            return {"parts": ["no answer"]}

    return node


def _in_own_loop(state: State, runtime: Runtime[Context]) -> State:
    async def both() -> list[str]:
        model = _model(runtime)
        found = await asyncio.gather(*(model.ainvoke(f"loop {at} {state['text']}") for at in range(2)))
        return [one.text for one in found]

    return {"parts": asyncio.run(both())}


async def _random(state: State, runtime: Runtime[Context]) -> State:
    return {"parts": [(await _model(runtime).ainvoke(f"random {uuid.uuid4().hex} {state['text']}")).text]}


async def _concludes(state: State, runtime: Runtime[Context]) -> State:
    return {"reply": (await _model(runtime).ainvoke("conclude " + " | ".join(sorted(state["parts"])))).text}


plain = _one_node(_plain)
catches_all = _one_node(_catches_all)
retries = _one_node(_retries)
falls_back = _one_node(_falls_back)
gathers = _one_node(_gathers)
times_out = _in_parallel([_times_out, _outlasts_it])
own_loop = _one_node(_in_own_loop)
random = _one_node(_random)
half_random = _in_parallel([_random, _retries])
threads = _in_parallel([_in_thread(number) for number in range(4)])
unlike = _in_parallel([_sleeps_first, _retries, _in_thread(0)])
steps = _in_parallel([_retries, _gathers, _in_thread(1)], _concludes)
