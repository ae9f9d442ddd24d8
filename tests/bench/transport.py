"""CPU of one call: our transport, and `ChatOpenAI.with_structured_output` on its default client, in one run."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from langchain_core.messages import HumanMessage
from pydantic import BaseModel, SecretStr

from stages.models.wires.http import close_session
from stages.models.wires.transport import ProviderChatModel
from tests.harness.model_server import ModelServer

CALLS = 5_000


class Answer(BaseModel):
    category: str
    urgency: int


async def _measure(base_url: str) -> tuple[float, float]:
    schema = Answer.model_json_schema() | {"additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "Answer", "schema": schema, "strict": True}}
    ours = ProviderChatModel(model="test-model", base_url=base_url, api_key=SecretStr("sk-test"))

    async def one() -> None:
        result = await ours._agenerate([HumanMessage("hello")], response_format=wanted)
        Answer.model_validate_json(str(result.generations[0].message.content))

    mine = await _spent(one, CALLS)
    await close_session()
    from langchain_openai import ChatOpenAI

    theirs = ChatOpenAI(
        model="test-model", base_url=base_url, api_key=SecretStr("sk-test"), max_retries=0
    ).with_structured_output(Answer, method="json_schema")

    async def other() -> None:
        await theirs.ainvoke("hello")

    return mine, await _spent(other, CALLS // 5)


async def _spent(one: Callable[[], Awaitable[None]], calls: int, in_flight: int = 32) -> float:
    """CPU milliseconds a call of this process."""
    places = asyncio.Semaphore(in_flight)

    async def bounded() -> None:
        async with places:
            await one()

    await one()
    began = time.process_time()
    await asyncio.gather(*(bounded() for _ in range(calls)))
    return (time.process_time() - began) / calls * 1000


def main() -> str:
    with ModelServer.start(latency_ms=5) as server:
        ours, theirs = asyncio.run(_measure(server.base_url))
    return (
        f"{ours:.2f} ms CPU a call over {CALLS:,} calls; ChatOpenAI structured {theirs:.2f} ms ({theirs / ours:.1f} ×)"
    )
