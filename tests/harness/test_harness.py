"""Facts about the harness itself, each against the real process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from openai import APIStatusError, AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from tests.harness.fault_proxy import FaultProxy
from tests.harness.model_server import ModelServer
from tests.harness.processes import HarnessError
from tests.harness.servers import SEARCH_ATTRIBUTES, SeaweedS3, TemporalServer, free_ports


class _Category(Enum):
    BILLING = "billing"
    BUG = "bug"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=12, max_length=30)
    inner: _Part | None = None
    others: list[_Part] = Field(default_factory=list, max_length=2)


class _Ticket(BaseModel):
    model_config = ConfigDict(extra="forbid")
    category: _Category
    urgency: int = Field(ge=1, le=5)
    score: float = Field(gt=0, lt=1)
    even: int = Field(gt=10, lt=20, multiple_of=2)
    tags: list[str] = Field(min_length=1, max_length=4)
    day: date
    at: datetime
    note: str | None
    pair: tuple[int, str]
    counts: dict[str, int]
    part: _Part


def _ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "test-model", "messages": [{"role": "user", "content": text}], **more}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


async def _post(server: ModelServer, body: dict[str, Any], timeout_s: float = 10) -> tuple[int, dict[str, str], bytes]:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{server.base_url}/chat/completions", json=body) as response,
    ):
        return response.status, dict(response.headers), await response.read()


async def _content(server: ModelServer, body: dict[str, Any]) -> Any:
    status, _, raw = await _post(server, body)
    assert status == 200
    return json.loads(raw)["choices"][0]["message"]["content"]


def _client(server: ModelServer) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.base_url, api_key="sk-test", max_retries=0)


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within five seconds")


# --- answers -------------------------------------------------------------------------------------------------------


async def test_answers_are_valid_deterministic_and_varied(model_server: ModelServer) -> None:
    response_format = _format(_Ticket.model_json_schema())
    asked = [_ask(f"row {n}", response_format=response_format) for n in range(100)]
    answers = [await _content(model_server, body) for body in asked]
    tickets = [_Ticket.model_validate_json(answer) for answer in answers]
    assert await _content(model_server, asked[7]) == answers[7]
    assert {ticket.urgency for ticket in tickets} == {1, 2, 3, 4, 5}
    assert {ticket.note is None for ticket in tickets} == {True, False}


async def test_a_marker_in_the_user_message_is_the_answer(model_server: ModelServer) -> None:
    text = 'row 1 [[answer: {"urgency": 3, "tags": [["a"]]}]] end'
    assert await _content(model_server, _ask(text)) == '{"urgency": 3, "tags": [["a"]]}'


async def test_the_openai_client_understands_every_kind_of_answer(model_server: ModelServer) -> None:
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
    tool = {"type": "function", "function": {"name": "search", "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "search"}}
    messages: Any = [{"role": "user", "content": "hello"}]
    async with _client(model_server) as client:
        plain = await client.chat.completions.create(model="m", messages=messages)
        forced = await client.chat.completions.create(
            model="m", messages=messages, tools=cast("Any", [tool]), tool_choice=cast("Any", choice)
        )
        streamed = await client.chat.completions.create(
            model="m", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in streamed]
        vectors = await client.embeddings.create(model="e", input=["a", "b", "a"])
        models = await client.models.list()
    assert plain.usage is not None
    assert (plain.usage.prompt_tokens, plain._request_id is None) == (2, False)
    [call] = forced.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == {"q"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage == plain.usage
    one, two, three = (row.embedding for row in vectors.data)
    assert one == three != two
    assert [model.id for model in models.data] == ["test-model"]


# --- script --------------------------------------------------------------------------------------------------------


async def test_latency_and_calls_in_flight(model_server: ModelServer) -> None:
    model_server.script({"latency_ms": 200})
    start = time.monotonic()
    await asyncio.gather(*(_post(model_server, _ask(f"row {n}")) for n in range(20)))
    assert 0.2 <= time.monotonic() - start < 2
    stats = model_server.stats()
    assert (stats.requests, stats.answered_ok, stats.max_in_flight, stats.in_flight) == (20, 20, 20, 0)


async def test_errors_have_openai_bodies_and_times_counts_by_content(model_server: ModelServer) -> None:
    rule = {"code": "insufficient_quota", "times": 2, "per": "content", "headers": {"Retry-After": "7"}}
    model_server.script({"rules": [rule]})
    statuses = [(await _post(model_server, _ask(text)))[0] for text in ("a", "a", "a", "b", "b", "b")]
    assert statuses == [429, 429, 200, 429, 429, 200]
    model_server.script({"rules": [rule]})
    async with _client(model_server) as client:
        with pytest.raises(APIStatusError) as caught:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "c"}])
    assert (caught.value.code, caught.value.response.headers["Retry-After"]) == ("insufficient_quota", "7")


async def test_rate_hits_the_same_contents_always_or_draws_again(model_server: ModelServer) -> None:
    async def failing() -> set[int]:
        return {n for n in range(100) if (await _post(model_server, _ask(f"row {n}")))[0] == 500}

    model_server.script({"rules": [{"rate": 0.2, "seed": 1, "status": 500}]})
    first = await failing()
    assert first == await failing()
    assert 8 <= len(first) <= 35
    model_server.reset()
    model_server.script({"rules": [{"rate": 0.2, "seed": 1, "status": 500, "draw": "request"}]})
    assert await failing() != await failing()


async def test_the_first_matching_rule_wins_and_unknown_keys_are_refused(model_server: ModelServer) -> None:
    model_server.script({"rules": [{"match": "b", "action": "text", "text": "B"}, {"status": 503}]})
    assert await _content(model_server, _ask("abc")) == "B"
    assert (await _post(model_server, _ask("x")))[0] == 503
    with pytest.raises(HarnessError, match="laency_ms"):
        model_server.script({"laency_ms": 3})


async def test_limits_answer_429_with_retry_after(model_server: ModelServer) -> None:
    model_server.script({"limits": {"requests_per_minute": 300}})
    answers = [await _post(model_server, _ask(f"row {n}")) for n in range(10)]
    assert [status for status, _, _ in answers[:5]] == [200] * 5
    assert (answers[-1][0], answers[-1][1]["Retry-After"]) == (429, "1")
    await asyncio.sleep(1.1)
    assert (await _post(model_server, _ask("later")))[0] == 200
    model_server.script({"limits": {"tokens_per_minute": 60}})
    assert (await _post(model_server, _ask("x" * 12)))[0] == 200  # above the capacity of a full bucket: a debt
    status, headers, _ = await _post(model_server, _ask("x"))
    assert (status, int(headers["Retry-After"]) > 1) == (429, True)
    model_server.script({"latency_ms": 100, "limits": {"max_concurrency": 3}})
    statuses = [status for status, _, _ in await asyncio.gather(*(_post(model_server, _ask("x")) for _ in range(5)))]
    assert sorted(statuses) == [200, 200, 200, 429, 429]


async def test_spoilt_answers(model_server: ModelServer) -> None:
    schema = _Ticket.model_json_schema()

    async def choice_of(action: str) -> dict[str, Any]:
        model_server.script({"rules": [{"action": action, "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}]})
        _, _, raw = await _post(model_server, _ask("x", response_format=_format(schema)))
        return cast("dict[str, Any]", json.loads(raw)["choices"][0])

    with pytest.raises(json.JSONDecodeError):
        json.loads((await choice_of("bad_json"))["message"]["content"])
    assert set(json.loads((await choice_of("wrong_schema"))["message"]["content"])) == set(schema["properties"])
    assert (await choice_of("refusal"))["message"]["refusal"]
    assert (await choice_of("length"))["finish_reason"] == "length"
    [call] = (await choice_of("tool_calls"))["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a":1}'}
    with pytest.raises(IndexError):
        await choice_of("empty_choices")
    with pytest.raises(json.JSONDecodeError):
        await choice_of("malformed")
    with pytest.raises(aiohttp.ClientError):
        await choice_of("reset")
    model_server.script({"rules": [{"action": "wrong_content_type"}]})
    _, headers, _ = await _post(model_server, _ask("x"))
    assert headers["Content-Type"].startswith("text/html")
    stats = model_server.stats()
    assert (stats.answered_ok, stats.billed, stats.by_status) == (1, 8, {200: 8, 0: 1})


async def test_oversized_answers_are_sent_whole(model_server: ModelServer) -> None:
    model_server.script({"rules": [{"action": "oversized", "mb": 20}]})
    assert len(await _content(model_server, _ask("x"))) == 20_000_000


async def test_a_hanging_call_ends_as_disconnected_and_unanswered(model_server: ModelServer) -> None:
    model_server.script({"rules": [{"action": "hang"}]})
    with pytest.raises(TimeoutError):
        await _post(model_server, _ask("x"), timeout_s=0.3)
    await _until(lambda: model_server.stats().in_flight == 0)
    [call] = model_server.calls()
    assert (call.disconnected, call.answered, call.status, call.fault) == (True, False, 0, "hang")


async def test_a_client_that_leaves_during_the_latency_is_noticed(model_server: ModelServer) -> None:
    model_server.script({"latency_ms": 5000})
    with pytest.raises(TimeoutError):
        await _post(model_server, _ask("x"), timeout_s=0.2)
    await _until(lambda: model_server.stats().in_flight == 0)
    assert [call.disconnected for call in model_server.calls()] == [True]
    assert model_server.stats().billed == 0


async def test_records_tell_contents_apart(model_server: ModelServer) -> None:
    for text in ("a", "b", "a", "a"):
        await _post(model_server, _ask(text))
    stats = model_server.stats()
    assert (stats.contents, stats.max_ok_per_content) == (2, 3)
    calls = model_server.calls()
    assert [call.message for call in calls] == ["a", "b", "a", "a"]
    assert calls[0].digest == calls[2].digest != calls[1].digest
    assert stats.prompt_tokens == sum(call.usage["prompt_tokens"] for call in calls) == 4
    assert all(call.t_end is not None and call.t_start <= call.t_end <= time.time() for call in calls)


# --- processes -----------------------------------------------------------------------------------------------------


def test_ports_are_not_given_twice() -> None:
    ports = [*free_ports(20), *free_ports(20)]
    assert len(set(ports)) == 40


def test_a_server_dies_with_the_process_that_started_it() -> None:
    program = (
        "import os, signal\n"
        "from tests.harness.model_server import ModelServer\n"
        "with ModelServer.start() as server:\n"
        "    print(server.child.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=os.getcwd(), stdout=subprocess.PIPE, check=False)
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the server outlived its parent")


# --- storage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(seaweed: SeaweedS3) -> Iterator[tuple[FaultProxy, Any]]:
    with FaultProxy.start(seaweed.port) as proxy, contextlib.closing(seaweed.client(proxy.url)) as client:
        yield proxy, client


def test_a_conditional_put_has_one_winner_and_survives_a_kill(tmp_path: Path) -> None:
    with SeaweedS3.start(tmp_path / "s3") as server, contextlib.closing(server.client()) as client:
        bucket = server.bucket("survives")
        client.put_object(Bucket=bucket, Key="commit", Body=b"first", IfNoneMatch="*")
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket=bucket, Key="commit", Body=b"second", IfNoneMatch="*")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
        server.kill()
        with pytest.raises(EndpointConnectionError):
            client.list_buckets()
        server.restart()
        assert client.get_object(Bucket=bucket, Key="commit")["Body"].read() == b"first"


def test_a_dropped_reply_leaves_the_object_there(seaweed: SeaweedS3, proxied: tuple[FaultProxy, Any]) -> None:
    proxy, client = proxied
    bucket = seaweed.bucket("dropped")
    proxy.set(drop_reply={"method": "PUT", "path": "/commits/", "nth": 2})
    client.put_object(Bucket=bucket, Key="commits/1", Body=b"one", IfNoneMatch="*")
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket=bucket, Key="commits/2", Body=b"two", IfNoneMatch="*")
    assert client.get_object(Bucket=bucket, Key="commits/2")["Body"].read() == b"two"
    assert (proxy.stats().dropped, proxy.stats().requests) == (1, {"PUT": 2, "GET": 1})


def test_large_bodies_pass_unchanged_and_cut_ones_store_nothing(
    seaweed: SeaweedS3, proxied: tuple[FaultProxy, Any]
) -> None:
    proxy, client = proxied
    bucket = seaweed.bucket("bodies")
    body = os.urandom(3_000_000)
    client.put_object(Bucket=bucket, Key="whole", Body=body)
    assert client.get_object(Bucket=bucket, Key="whole")["Body"].read() == body
    proxy.set(cut_body={"method": "PUT"})
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket=bucket, Key="cut", Body=body)
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["whole"]


def test_errors_are_not_passed_on(seaweed: SeaweedS3, proxied: tuple[FaultProxy, Any]) -> None:
    proxy, client = proxied
    bucket = seaweed.bucket("errors")
    proxy.set(error={"rate": 0.3, "seed": 5})
    failed: dict[str, str] = {}
    for n in range(30):
        try:
            client.put_object(Bucket=bucket, Key=f"{n:02}", Body=b"x")
        except ClientError as exc:
            failed[f"{n:02}"] = exc.response["Error"]["Code"]
    assert set(failed.values()) == {"SlowDown"}
    assert proxy.stats().errors == len(failed)
    assert 3 <= len(failed) <= 16
    proxy.clear()
    stored = {item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert stored == {f"{n:02}" for n in range(30)} - failed.keys()


def test_refusal_delay_and_throttle(seaweed: SeaweedS3, proxied: tuple[FaultProxy, Any]) -> None:
    proxy, client = proxied
    bucket = seaweed.bucket("slow")
    proxy.set(refuse=True)
    with pytest.raises(EndpointConnectionError):
        client.list_buckets()
    proxy.set(delay_s=0.4)
    start = time.monotonic()
    client.put_object(Bucket=bucket, Key="k", Body=b"x" * 5000)
    assert time.monotonic() - start >= 0.4
    proxy.set(throttle_bytes_per_s=10_000)
    start = time.monotonic()
    assert len(client.get_object(Bucket=bucket, Key="k")["Body"].read()) == 5000
    assert time.monotonic() - start >= 0.4


async def test_the_proxy_carries_chunked_replies_of_the_model_server(model_server: ModelServer) -> None:
    with FaultProxy.start(model_server.port) as proxy:
        async with AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="sk-test", max_retries=0) as client:
            for _ in range(3):
                messages: Any = [{"role": "user", "content": "hello"}]
                streamed = await client.chat.completions.create(model="m", messages=messages, stream=True)
                assert len([chunk async for chunk in streamed]) > 2
        assert proxy.stats().requests == {"POST": 3}


# --- Temporal ------------------------------------------------------------------------------------------------------


async def _attributes(address: str) -> dict[str, int]:
    client = await Client.connect(address)
    request = ListSearchAttributesRequest(namespace="default")
    found = await client.operator_service.list_search_attributes(request)
    return dict(found.custom_attributes)


async def test_temporal_answers_with_our_search_attributes(temporal_server: TemporalServer) -> None:
    attributes = await _attributes(temporal_server.address)
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    assert {name: attributes.get(name) for name in SEARCH_ATTRIBUTES} == dict.fromkeys(SEARCH_ATTRIBUTES, keyword)


async def test_temporal_keeps_a_started_workflow_over_a_kill(tmp_path: Path) -> None:
    with TemporalServer.start(tmp_path / "temporal") as server:
        client = await Client.connect(server.address)
        await client.start_workflow("Nobody", id="kept", task_queue="none")
        server.kill()
        server.restart()
        client = await Client.connect(server.address)
        described = await client.get_workflow_handle("kept").describe()
        assert described.status is not None
        assert described.status.name == "RUNNING"
