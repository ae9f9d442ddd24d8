"""The thin OpenAI-compatible model: what it keeps of an answer, and to which class each broken one goes."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import SecretStr

from schemas.errors import FatalModelError, NoAnswer, RowError, TandemError, TransientModelError
from stages.models.langchain.face import as_langchain
from stages.models.wires.http import close_session
from stages.models.wires.transport import ProviderChatModel
from tests.harness.model_server import ModelServer

SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA, "strict": True}}


def model_at(base_url: str, **given: Any) -> BaseChatModel:
    return as_langchain(ProviderChatModel(model="test-model", base_url=base_url, api_key=SecretStr("sk-x"), **given))


async def said(server: ModelServer, rule: dict[str, Any] | None = None, **given: Any) -> AIMessage:
    if rule is not None:
        server.script({"rules": [rule]})
    return await model_at(server.base_url, **given).ainvoke([HumanMessage("hello")])


async def failed(server: ModelServer, rule: dict[str, Any], **given: Any) -> TandemError:
    with pytest.raises(TandemError) as caught:
        await said(server, rule, **given)
    return caught.value


@asynccontextmanager
async def a_provider(answer: Any) -> AsyncIterator[str]:
    """A server that answers with what `answer(request body)` returns: (status, body, headers)."""

    async def handle(request: web.BaseRequest) -> web.Response:
        status, body, headers = answer(orjson.loads(await request.read()))
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return web.Response(status=status, body=data, headers={"Content-Type": "application/json", **headers})

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await close_session()
        await runner.cleanup()


def completion(**changed: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "hi", **changed.pop("message", {})}
    return {"id": "c-1", "model": "m-2", "choices": [{"message": message, "finish_reason": "stop"}], **changed}


async def test_usage_request_id_and_finish_reason_are_kept(server: ModelServer) -> None:
    message = await said(server)
    [call] = server.calls()
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == call.usage["prompt_tokens"]
    assert message.usage_metadata["output_tokens"] == call.usage["completion_tokens"]
    assert message.response_metadata["request_id"].startswith("req-1-")
    assert message.response_metadata["finish_reason"] == "stop"


async def test_cached_and_reasoning_tokens_are_kept() -> None:
    usage = {
        "prompt_tokens": 10, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }  # fmt: skip
    async with a_provider(lambda asked: (200, completion(usage=usage), {})) as url:
        message = await model_at(url).ainvoke("x")
    assert message.usage_metadata == {
        "input_tokens": 10, "output_tokens": 7, "total_tokens": 17,
        "input_token_details": {"cache_read": 4}, "output_token_details": {"reasoning": 5},
    }  # fmt: skip
    assert message.response_metadata["request_id"] == "c-1"


async def test_refusals_cut_answers_and_tool_calls_are_kept(server: ModelServer) -> None:
    assert (await said(server, {"action": "refusal"})).additional_kwargs["refusal"]
    assert (await said(server, {"action": "length"})).response_metadata["finish_reason"] == "length"
    calls = [{"name": "search", "arguments": {"q": "x"}}, {"name": "search", "arguments": "{broken"},
             {"name": "search", "arguments": "[1]"}]  # fmt: skip
    message = await said(server, {"action": "tool_calls", "tool_calls": calls})
    assert [call["args"] for call in message.tool_calls] == [{"q": "x"}]
    assert [call["args"] for call in message.invalid_tool_calls] == ["{broken", "[1]"]


async def test_a_hang_is_transient_within_its_timeout(server: ModelServer) -> None:
    started = time.monotonic()
    failure = await failed(server, {"action": "hang"}, timeout_s=0.5)
    assert isinstance(failure, TransientModelError)
    assert time.monotonic() - started < 1.5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory from Linux's /proc")
async def test_an_oversized_answer_rejects_the_row_and_is_not_kept_in_memory(server: ModelServer) -> None:
    await said(server)
    before = new_peak_kib()
    failure = await failed(server, {"action": "oversized", "mb": 50})
    assert isinstance(failure, RowError)
    assert failure.kind == "oversized_answer"
    assert peak_kib() - before <= 20_000


def new_peak_kib() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return peak_kib()


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("malformed", "malformed_response"),
        ("wrong_content_type", "malformed_response"),
        ("empty_choices", "empty_answer"),
    ],
)
async def test_what_is_no_completion_is_no_answer_and_says_what_came(
    server: ModelServer, action: str, kind: str
) -> None:
    failure = await failed(server, {"action": action})
    assert isinstance(failure, NoAnswer)
    assert failure.kind == kind
    assert failure.raw


@pytest.mark.parametrize("action", ["reset", "error"])
async def test_a_reset_and_a_500_are_transient(server: ModelServer, action: str) -> None:
    assert isinstance(await failed(server, {"action": action}), TransientModelError)


async def test_nobody_listening_is_transient() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TransientModelError):
            await model_at(f"http://127.0.0.1:{taken.getsockname()[1]}/v1").ainvoke("x")
    await close_session()


@pytest.mark.parametrize("base_url", ["not a url", "ftp://x/v1", "http:///v1"])
async def test_a_base_url_that_is_none_is_fatal(base_url: str) -> None:
    with pytest.raises(FatalModelError, match="base URL"):
        await model_at(base_url).ainvoke("x")
    await close_session()


async def test_a_redirect_is_fatal_and_not_followed() -> None:
    async with a_provider(lambda asked: (302, b"", {"Location": "http://127.0.0.1:1/"})) as url:
        with pytest.raises(FatalModelError, match="base URL"):
            await model_at(url).ainvoke("x")


async def test_a_large_error_page_does_not_hide_its_status() -> None:
    async with a_provider(lambda asked: (503, b"x" * 3_000_000, {"Retry-After": "4"})) as url:
        with pytest.raises(TransientModelError) as caught:
            await model_at(url).ainvoke("x")
    assert caught.value.retry_after == 4


async def test_an_error_inside_a_200_is_sorted_by_its_code() -> None:
    async with a_provider(lambda asked: (200, {"error": {"code": 429, "message": "slow down"}}, {})) as url:
        with pytest.raises(TransientModelError, match="slow down"):
            await model_at(url).ainvoke("x")


@pytest.mark.parametrize(
    "changed",
    [
        {"choices": [{"message": "text"}]},
        {"message": {"tool_calls": ["x"]}},
        {"message": {"content": 5}},
    ],
)
async def test_an_answer_of_another_shape_is_none(changed: dict[str, Any]) -> None:
    async with a_provider(lambda asked: (200, completion(**changed), {})) as url:
        with pytest.raises(NoAnswer) as caught:
            await model_at(url).ainvoke("x")
    assert caught.value.kind == "malformed_response"


async def test_messages_go_out_in_the_form_of_the_api() -> None:
    asked: list[dict[str, Any]] = []
    calls = [{"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}]
    invalid = [{"name": "f", "args": "{", "id": "2", "error": None, "type": "invalid_tool_call"}]
    history = [
        SystemMessage("s"), HumanMessage("u", name="ann"), AIMessage("", tool_calls=calls, invalid_tool_calls=invalid),
        ToolMessage("t", tool_call_id="1", name="f"),
    ]  # fmt: skip

    def answer(body: dict[str, Any]) -> Any:
        asked.append(body)
        return 200, completion(), {}

    async with a_provider(answer) as url:
        model = model_at(url, params={"temperature": 0}, headers={"X-Team": "a"})
        await model.bind_tools([{"name": "f", "parameters": {}}], tool_choice="f").ainvoke(history, stop=["\n"])
    [body] = asked
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][1]["name"] == "ann"
    assert [call["id"] for call in body["messages"][2]["tool_calls"]] == ["1", "2"]
    assert body["messages"][3] == {"role": "tool", "content": "t", "tool_call_id": "1"}
    assert body["temperature"] == 0
    assert body["stop"] == ["\n"]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert body["stream"] is False


async def test_an_endpoint_without_schemas_is_asked_in_words_after_its_first_refusal() -> None:
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Any:
        asked.append(body)
        if "response_format" in body:
            return 400, {"error": {"message": "'response_format' of type 'json_schema' is not supported"}}, {}
        return 200, completion(message={"content": '{"word": "x"}'}), {}

    async with a_provider(answer) as url:
        model = model_at(url).bind(response_format=FORMAT)
        first = await model.ainvoke([SystemMessage("Be brief."), HumanMessage("one")])
        await model.ainvoke([HumanMessage("two")])
    assert first.content == '{"word": "x"}'
    assert ["response_format" in body for body in asked] == [True, False, False]
    assert asked[1]["messages"][0]["content"].startswith("Be brief.\n\nAnswer with one JSON object")
    assert [message["role"] for message in asked[2]["messages"]] == ["system", "user"]
    assert '"word"' in asked[2]["messages"][0]["content"]


async def test_a_wrong_schema_is_not_asked_in_words() -> None:
    said = {"error": {"message": "Invalid schema for response_format 'w': 'minLength' is not permitted"}}
    async with a_provider(lambda body: (400, said, {})) as url:
        with pytest.raises(FatalModelError, match="Invalid schema"):
            await model_at(url).bind(response_format=FORMAT).ainvoke("x")


def test_the_synchronous_way_works_outside_any_loop(server: ModelServer) -> None:
    assert model_at(server.base_url).invoke("hello").content


async def test_one_session_serves_a_loop_and_closes(server: ModelServer) -> None:
    model = model_at(server.base_url)
    await asyncio.gather(*(model.ainvoke(f"hello {at}") for at in range(20)))
    assert server.stats().answered_ok == 20


# What a model refuses -----------------------------------------------------------------------------------------------


def refusing(*refusals: tuple[Any, str]) -> tuple[Any, list[dict[str, Any]]]:
    """A provider that refuses requests of a kind, with a message; and what it was asked."""
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Any:
        asked.append(body)
        for refused, message in refusals:
            if refused(body):
                return 400, {"error": {"message": message, "type": "invalid_request_error"}}, {}
        return 200, completion(), {}

    return answer, asked


@pytest.mark.parametrize(
    ("sent", "message", "then"),
    [
        ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
         "max_completion_tokens"),
        ("max_completion_tokens", "Unrecognized request argument supplied: max_completion_tokens", "max_tokens"),
        ("max_completion_tokens", "max_completion_tokens: Extra inputs are not permitted", "max_tokens"),
    ],
)  # fmt: skip
async def test_a_cap_goes_by_the_name_that_the_model_takes_from_its_first_refusal_on(
    sent: str, message: str, then: str
) -> None:
    answer, asked = refusing((lambda body: sent in body, message))
    async with a_provider(answer) as url:
        for text in ("one", "two"):
            await model_at(url, params={sent: 50}).ainvoke(text)
    assert [[name for name in body if name.startswith("max_")] for body in asked] == [[sent], [then], [then]]
    assert asked[-1][then] == 50


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "System role not supported",
        "Only user and assistant roles are supported!",
    ],
)
async def test_a_system_text_goes_into_the_users_turn_where_there_is_no_such_role(message: str) -> None:
    answer, asked = refusing((lambda body: body["messages"][0]["role"] == "system", message))
    async with a_provider(answer) as url:
        for text in ("one", "two"):
            await model_at(url).ainvoke([SystemMessage("Be brief."), HumanMessage(text)])
    assert [[m["role"] for m in body["messages"]] for body in asked] == [["system", "user"], ["user"], ["user"]]
    assert asked[-1]["messages"][0]["content"] == "Be brief.\n\ntwo"


async def test_a_model_that_knows_neither_schemas_nor_a_system_text_is_asked_all_the_same() -> None:
    answer, asked = refusing(
        (lambda body: "response_format" in body, "response_format is not supported"),
        (lambda body: body["messages"][0]["role"] == "system", "system role is not supported"),
        (lambda body: "max_tokens" in body, "Unsupported parameter: 'max_tokens'"),
        (lambda body: "stream" in body, "Unknown parameter: 'stream'"),
    )
    async with a_provider(answer) as url:
        model = model_at(url, params={"max_tokens": 9}).bind(response_format=FORMAT)
        for text in ("one", "two"):
            await model.ainvoke([SystemMessage("Be brief."), HumanMessage(text)])
    assert len(asked) == 4 + 2
    assert set(asked[-1]) == {"model", "messages", "max_completion_tokens"}
    assert '"word"' in asked[-1]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": 0}, "Unsupported value: 'temperature' does not support 0 with this model."),
        ({"top_k": 5}, "top_k: Extra inputs are not permitted"),
        ({"reasoning_effort": "none"}, "Invalid value: 'none'. reasoning_effort must be one of low, medium, high"),
        ({"stop": ["x"]}, "Unsupported parameter: 'stop' is not supported with this model."),
        ({"max_tokens": 99_999}, "max_tokens is too large: 99999. This model supports at most 16384 of them"),
    ],
)
async def test_a_parameter_that_cannot_be_put_otherwise_is_fatal_by_name(params: dict[str, Any], message: str) -> None:
    answer, asked = refusing((lambda body: True, message))
    async with a_provider(answer) as url:
        with pytest.raises(FatalModelError, match=repr(next(iter(params)))):
            await model_at(url, params=params).ainvoke("x")
    assert len(asked) == 1


async def test_what_the_model_has_taken_before_is_not_what_it_refuses() -> None:
    said = "Unsupported value: 'temperature' does not support the image of this message"
    answer, _ = refusing((lambda body: body["messages"][0]["content"] == "bad", said))
    async with a_provider(answer) as url:
        await model_at(url, params={"temperature": 0}).ainvoke("good")
        with pytest.raises(RowError):
            await model_at(url, params={"temperature": 0}).ainvoke("bad")


@pytest.mark.parametrize("error", ["Unexpected endpoint or method. (POST /chat/completions)", "Cannot POST /v1/x"])
@pytest.mark.parametrize("status", [200, 400, 404])
async def test_an_endpoint_that_is_none_names_the_base_url(error: str, status: int) -> None:
    async with a_provider(lambda body: (status, {"error": error}, {})) as url:
        with pytest.raises(FatalModelError) as caught:
            await model_at(url).ainvoke("x")
    assert url in caught.value.hint
