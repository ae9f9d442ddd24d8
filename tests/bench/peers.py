"""One question a row, side by side in one process: a raw aiohttp loop, the loop of OpenAI's client, LangGraph's
`abatch`, and the way of a row here, journal and limiter included. CPU of this process, in turns; the mock is another
one. `ROWS`, `IN_FLIGHT` and `LATENCY_MS` set the load."""

import asyncio
import gc
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

import aiohttp
import openai
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from stages.models.wires.http import close_session
from tests.harness.model_server import ModelServer
from tests.stages.support import a_context, an_extract, enrich

TURNS = 3
_PROMPT = "ticket number {} about an invoice that is wrong"


class Answer(BaseModel):
    """An answer."""

    word: str
    level: int


_SCHEMA = {"name": "answer", "schema": {**Answer.model_json_schema(), "additionalProperties": False}, "strict": True}
_FORM = {"type": "json_schema", "json_schema": _SCHEMA}
Way = Callable[[list[str]], Awaitable[None]]


def _body(text: str) -> dict[str, Any]:
    return {"model": "test-model", "messages": [{"role": "user", "content": text}], "response_format": _FORM}


async def raw(texts: list[str]) -> None:
    url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def one(text: str) -> None:
            async with session.post(url, json=_body(text)) as response:
                answer = await response.json()
                Answer.model_validate_json(answer["choices"][0]["message"]["content"])

        await _each(texts, one)


async def client(texts: list[str]) -> None:
    async with openai.AsyncOpenAI(max_retries=0, timeout=600) as asking:

        async def one(text: str) -> None:
            answer = await asking.chat.completions.create(**_body(text))
            Answer.model_validate_json(answer.choices[0].message.content or "")

        await _each(texts, one)


class _State(TypedDict, total=False):
    text: str
    answer: Any


async def abatch(texts: list[str]) -> None:
    model = ChatOpenAI(model="test-model", max_retries=0, timeout=600).with_structured_output(Answer)

    async def ask(state: _State) -> _State:
        return {"answer": await model.ainvoke(state["text"])}

    builder = StateGraph(_State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    await builder.compile().abatch([{"text": text} for text in texts], {"max_concurrency": _in_flight()})


async def ours(texts: list[str]) -> None:
    stage = an_extract(output={"word": "str", "level": "int"}, limits={"rows_in_flight": _in_flight()})
    outcome = await enrich(stage, texts, a_context(flush_s=1.0))
    assert all(record is not None and record.status == "ok" for record in outcome.records)


async def _each(texts: list[str], one: Callable[[str], Awaitable[None]]) -> None:
    places = asyncio.Semaphore(_in_flight())

    async def bounded(text: str) -> None:
        async with places:
            await one(text)

    await asyncio.gather(*(bounded(text) for text in texts))


def _in_flight() -> int:
    return int(os.environ.get("IN_FLIGHT", "256"))


WAYS: dict[str, Way] = {"raw aiohttp": raw, "AsyncOpenAI": client, "LangGraph abatch": abatch, "a row here": ours}


async def _measure(rows: int) -> dict[str, tuple[float, float]]:
    """Return the milliseconds of CPU and of time for a row of each way, the median of some turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for turn in range(-1, TURNS):
        for name, way in WAYS.items():
            texts = [_PROMPT.format(f"{name} {turn} {number}") for number in range(rows if turn >= 0 else 20)]
            gc.collect()
            cpu, began = time.process_time(), time.monotonic()
            await way(texts)
            spent = (time.process_time() - cpu) / rows * 1000, (time.monotonic() - began) / rows * 1000
            if turn >= 0:  # the first is for what is imported and connected then
                found[name].append(spent)
    await close_session()
    cpu_and_time = {name: list(zip(*turns, strict=True)) for name, turns in found.items()}
    return {name: (statistics.median(cpu), statistics.median(took)) for name, (cpu, took) in cpu_and_time.items()}


def main() -> str:
    rows, latency_ms = int(os.environ.get("ROWS", "1500")), int(os.environ.get("LATENCY_MS", "20"))
    with ModelServer.start(latency_ms=latency_ms) as server:
        os.environ |= server.env()
        found = asyncio.run(_measure(rows))
    cpu, took = found["a row here"]
    lines = [f"{name} {one:.2f} ms of CPU a row, {1000 / time:.0f} rows/s" for name, (one, time) in found.items()]
    ratios = [
        f"{found[name][0] / cpu:.1f} × less CPU than {name}, {found[name][1] / took:.1f} × its rows/s"
        for name in ("AsyncOpenAI", "LangGraph abatch")
    ]
    return f"{_in_flight()} × {latency_ms} ms: {'; '.join([*lines, *ratios])} (load {os.getloadavg()[0]:.0f})"
