"""CPU of one call by each of our wires, and by LangChain's class of the provider on its default client, in one run."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from pipeline.clouds import model_services
from schemas.spec.fields import OutputField
from stages.models.answers.answer_format import AnswerFormat
from stages.models.wires.clients import client_of
from stages.models.wires.http import close_session
from tests.harness.model_server import ModelServer

CALLS = 3_000
# Name → the model, and the parameters that choose the wire.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("openai:gpt-5-mini", {}),
    "openai responses": ("openai:gpt-5-mini", {"api": "responses"}),
    "anthropic": ("anthropic:claude-haiku-4-5", {}),
    "gemini": ("google_genai:gemini-2.5-flash", {}),
    "vertex": ("google_vertexai:gemini-2.5-flash", {}),
    "bedrock converse": ("bedrock_converse:us.anthropic.claude-haiku-4-5-20251001-v1:0", {}),
}


class Answer(BaseModel):
    """An answer."""

    category: str
    urgency: int


FORM = AnswerFormat({"category": OutputField(type="str"), "urgency": OutputField(type="int")}, None, "answer")


async def _ours(model: str, params: dict[str, Any]) -> float:
    provider, _, name = model.partition(":")
    access = model_services().access(provider, params)
    client = client_of(provider, name, params, 60, access)
    declared = {"name": "answer", "schema": FORM.schema, "strict": True}

    async def one() -> None:
        result = await client._agenerate(
            [HumanMessage("hello")], response_format={"type": "json_schema", "json_schema": declared}
        )
        message = result.generations[0].message
        assert isinstance(message, AIMessage)
        FORM.read(message)

    spent = await _spent(one, CALLS)
    await close_session()
    return spent


async def _theirs(model: str, params: dict[str, Any]) -> float:
    own: dict[str, Any] = {"use_responses_api": True} if params else {}
    structured = init_chat_model(model, max_retries=0, timeout=30, **own).with_structured_output(Answer)

    async def one() -> None:
        await structured.ainvoke("hello")

    return await _spent(one, CALLS // 10)


async def _spent(one: Callable[[], Awaitable[None]], calls: int, in_flight: int = 32) -> float:
    """CPU milliseconds a call of this process."""
    places = asyncio.Semaphore(in_flight)

    async def bounded() -> None:
        async with places:
            await one()

    await asyncio.gather(*(bounded() for _ in range(in_flight)))
    began = time.process_time()
    await asyncio.gather(*(bounded() for _ in range(calls)))
    return (time.process_time() - began) / calls * 1000


async def _measure() -> str:
    lines, first = [], 0.0
    for name, (model, params) in MODELS.items():
        ours = await _ours(model, params)
        first = first or ours
        line = f"{name}: {ours:.2f} ms CPU a call ({ours / first:.2f} × the first)"
        if name not in ("gemini", "vertex"):  # its class did not reach a server of ours
            theirs = await _theirs(model, params)
            line += f"; LangChain's class {theirs:.2f} ms ({theirs / ours:.1f} ×)"
        lines.append(line)
    return "\n".join(lines)


def main() -> str:
    with ModelServer.start(latency_ms=5) as server:
        os.environ |= server.env() | server.other_providers()
        return asyncio.run(_measure())
