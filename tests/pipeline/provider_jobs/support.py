"""Parked calls as graphs leave them, for each provider, and what is to be seen of their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from langchain_core.messages import AIMessage, HumanMessage

from pipeline.bedrock import bedrock_access
from pipeline.journal.segments import Reading, read_segments
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.clients import client_for
from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.polling import poll
from pipeline.provider_jobs.submission import Patience, submit
from pipeline.stores import Store
from schemas import ids
from schemas.digests import digest
from schemas.jobs import JobEnd, JobState
from schemas.parked import ParkedCall, encode
from schemas.spec.sections import Price
from stages.journal.records import CallRecord, RequestRecord
from stages.limits.limiter import Limiter
from stages.limits.prices import pricer
from stages.models.backend import Backend
from stages.models.calls import as_result, message_of
from stages.models.embeddings.answers import OpenAICompatibleEmbeddings
from stages.models.wires.clients import arguments_of, client_of
from stages.models.wires.transport import ProviderChatModel
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3

RUN, POOL = "r1", "0123456789abcdef"
QUICK = Patience(pause_s=0.05, prepared_s=0.2, margin_s=0.0)
BUCKET = "bedrock-jobs"
PRICE = Price(input=10, output=20)


@dataclass(frozen=True)
class Case:
    """A provider and the parameters of a model of it."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    embeds: bool = False
    key: str = "sk-test"

    @property
    def provider(self) -> str:
        return self.name.partition(":")[0]

    def model(self, server: ModelServer) -> ProviderChatModel:
        root = server.base_url.removesuffix("/v1")
        if self.provider == "bedrock_converse":  # the environment has its addresses and keys: see the fixture `bedrock`
            access = bedrock_access(self.params)
            return client_of(self.provider, self.name.partition(":")[2], self.params, 30, access)
        params = {
            "base_url": server.base_url if self.provider == "openai" else root,
            "api_key": self.key,
            **self.params,
        }
        name = self.name.partition(":")[2]
        if self.embeds:
            return OpenAICompatibleEmbeddings(**arguments_of(self.provider, name, params, 30))
        return client_of(self.provider, name, params, 30)

    def client(self, server: ModelServer) -> JobClient:
        client = client_for(self.model(server))
        assert client is not None
        client.create_s = 0.5  # of a server on this machine
        client.limits = replace(client.limits, least=1)
        return client

    def backend(self) -> Backend:
        price = pricer(self.name, {self.name: PRICE})
        return Backend(self.name, b"", "OPENAI_API_KEY", Limiter(8), price, 30, cap=1 if self.embeds else None)


CASES = {
    "OpenAI": Case("openai:gpt-test"),
    "Responses": Case("openai:gpt-test", {"api": "responses"}),
    "embeddings": Case("openai:embed-test", embeds=True),
    "Azure": Case("openai:gpt-test", {"batch_deployment": "gpt-batch"}),
    "Anthropic": Case("anthropic:claude-haiku-4-5", {"max_tokens": 200}),
    "Gemini": Case("google_genai:gemini-2.5-flash"),
    "Bedrock": Case(
        "bedrock_converse:us.anthropic.claude-haiku-4-5-20251001-v1:0",
        {"batch_role": "arn:aws:iam::123456789012:role/batch", "batch_output": f"s3://{BUCKET}/tandem"},
        key=SeaweedS3.access_key,
    ),
}
OPENAI, ANTHROPIC, GEMINI = CASES["OpenAI"], CASES["Anthropic"], CASES["Gemini"]
BEDROCK = CASES["Bedrock"]
NAMED = {"OpenAI": OPENAI, "Anthropic": ANTHROPIC, "Gemini": GEMINI, "Bedrock": BEDROCK}


def text_of(row: object) -> str:
    return f"Say {row}. [[answer: {orjson.dumps(str(row)).decode()}]]"


def a_call(model: ProviderChatModel, case: Case, text: str, row: str, **changes: Any) -> ParkedCall:
    body = model.body_of([HumanMessage(text)])
    fields: dict[str, Any] = {
        "request": digest(text), "ordinal": 0, "capped": digest(text, "capped"), "row": digest("row", row),
        "stage": "s",
        "model": case.name, "pool": POOL, "body": body, "common": '{"model":null,"settings":[],"messages":[]}',
        "messages": orjson.dumps([{"role": "user", "content": text}]).decode(), "size": len(text.encode()),
        "cap": 1 if case.embeds else None, "most_nano_usd": 5, "most_tokens": 7,
    }  # fmt: skip
    return ParkedCall(**{**fields, **changes})


def park(store: Store, partition: str, batch: int, calls: Sequence[ParkedCall], run: str = RUN) -> str:
    content = encode(calls)
    key = ids.parked_file(run, partition, batch, digest(content))
    store.put_absent(key, content)
    return key


def some(model: ProviderChatModel, case: Case, rows: Iterable[int]) -> list[ParkedCall]:
    return [a_call(model, case, text_of(row), str(row)) for row in rows]


def a_job(store: Store, case: Case, server: ModelServer, rows: int = 3) -> str:
    """Form a job of the calls of some rows of one partition."""
    key = park(store, "day=1", 0, some(case.model(server), case, range(rows)))
    (job,) = form_jobs(store, RUN, POOL, [key], client=case.client(server), closing=True).jobs
    return job


async def submitted(store: Store, job: str, client: JobClient) -> JobState:
    """Try until the job is submitted, or refused."""
    while True:
        state = await submit(store, RUN, POOL, job, client, patience=QUICK)
        if state.state != "waiting":
            return state
        await asyncio.sleep(min(state.wait_s, 0.2) + 0.01)


async def over(store: Store, job: str, client: JobClient) -> JobState:
    """Submit a job and wait for its end."""
    await submitted(store, job, client)
    while True:
        state = await poll(store, RUN, POOL, job, client)
        if state.over:
            return state
        await asyncio.sleep(0.02)


async def through(store: Store, keys: Sequence[str], client: JobClient, backend: Backend) -> list[JobEnd]:
    """Form jobs of all calls, and collect them."""
    ends = []
    for job in form_jobs(store, RUN, POOL, keys, client=client, closing=True).jobs:
        await over(store, job, client)
        ends.append(await collect(store, RUN, POOL, job, client, backend, pause_s=0.05))
    return ends


async def to_the_end(store: Store, keys: Sequence[str], client: JobClient, backend: Backend) -> list[JobEnd]:
    """Ask what was given back in further jobs, until nothing is."""
    ends: list[JobEnd] = []
    while keys:
        found = await through(store, keys, client, backend)
        ends += found
        keys = [key for end in found for key in end.again]
    return ends


def records(store: Store, partition: str) -> list[Any]:
    """The records of a partition's journal."""
    keys = [info.key for info in store.list(ids.journal_segments(partition))]
    return [record for segment in read_segments(store, keys, Reading()) for record in segment]


def calls(store: Store, partition: str) -> list[CallRecord]:
    return [record for record in records(store, partition) if isinstance(record, CallRecord)]


def requests(store: Store, partition: str) -> list[RequestRecord]:
    return [record for record in records(store, partition) if isinstance(record, RequestRecord)]


def message_in(record: CallRecord) -> AIMessage:
    return message_of(as_result(record))
