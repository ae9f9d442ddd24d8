"""What each provider's refusals, limits and outages become: a wait, a reject of the row, or the end of the run."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from email.utils import format_datetime
from typing import Any

import orjson
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from schemas.errors import FatalModelError, NoAnswer, RowError, TandemError, TransientModelError
from schemas.spec.fields import OutputField
from stages.limits.fleet_share import Rates
from stages.limits.rate_headers import allowed_by, rates_of
from stages.models.answers.answer_format import AnswerFormat
from stages.models.wires.clients import client_of
from tests.harness.protocols import protocol_of
from tests.stages.models.wires.referee import Referee, a_referee, ask, declared

MODELS = {
    "openai": ("openai:gpt-4o", "/v1/chat/completions"),
    "responses": ("openai:gpt-4o", "/v1/responses"),
    "anthropic": ("anthropic:claude-haiku-4-5", "/v1/messages"),
    "gemini": ("google_genai:gemini-2.5-flash", "/v1/models/gemini-2.5-flash:generateContent"),
}
SCHEMA = {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"],
    "additionalProperties": False,
}  # fmt: skip
FORM = AnswerFormat({"a": OutputField.model_validate({"type": "int", "ge": 1})}, None, "answer")


@pytest.fixture
async def referee() -> AsyncIterator[Referee]:
    async with a_referee() as found:
        yield found


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def error(model: str, status: int, message: str = "no", code: str | None = None) -> Any:
    protocol = protocol_of(MODELS[model][1])
    assert protocol is not None
    return protocol.error(status, message, code)


async def put(
    referee: Referee, model: str, text: str = "x", params: dict[str, Any] | None = None, **kwargs: Any
) -> AIMessage:
    by = {"api": "responses"} if model == "responses" else {}
    return await ask(referee, MODELS[model][0], [HumanMessage(text)], {**by, **(params or {})}, **kwargs)


async def fail(referee: Referee, model: str, **kwargs: Any) -> TandemError:
    with pytest.raises(TandemError) as caught:
        await put(referee, model, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, FatalModelError, "refuses the key"),
        (403, FatalModelError, "no access"),
        (404, FatalModelError, "not found at the provider"),
        (429, TransientModelError, "429"),
        (500, TransientModelError, "500"),
        (503, TransientModelError, "503"),
        (504, TransientModelError, "504"),
        (529, TransientModelError, "529"),
        (413, RowError, "413"),
        (400, RowError, "400"),
    ],
)
async def test_each_status_becomes_what_it_is(
    referee: Referee, model: str, status: int, kind: type[TandemError], words: str
) -> None:
    referee.next = [(status, error(model, status), {})]
    failure = await fail(referee, model)
    assert type(failure) is kind
    assert words in failure.message


async def test_a_wrong_key_names_the_setting(referee: Referee, model: str) -> None:
    referee.next = [(401, error(model, 401), {})]
    failure = await fail(referee, model)
    settings = {"anthropic": "ANTHROPIC_API_KEY", "gemini": "GOOGLE_API_KEY"}
    assert settings.get(model, "OPENAI_API_KEY") in failure.hint


async def test_googles_400_for_a_key_is_a_wrong_key(referee: Referee) -> None:
    referee.next = [(400, error("gemini", 400, "API key not valid. Please pass a valid API key."), {})]
    assert "refuses the key" in (await fail(referee, "gemini")).message


async def test_googles_retry_info_is_a_wait_although_it_says_quota(referee: Referee) -> None:
    body = error("gemini", 429, "You exceeded your current quota, please check your plan and billing details.")
    body["error"]["details"] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "PerMinute"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "13.5s"},
    ]
    referee.next = [(429, body, {})]
    failure = await fail(referee, "gemini")
    assert isinstance(failure, TransientModelError)
    assert failure.retry_after == 13.5


async def test_a_used_up_quota_is_told_apart_from_a_limit(referee: Referee, model: str) -> None:
    message = "Your credit balance is too low to access the API."
    referee.next = [(400 if model == "anthropic" else 429, error(model, 429, message, "insufficient_quota"), {})]
    failure = await fail(referee, model)
    assert isinstance(failure, FatalModelError)
    assert failure.quota


def soon(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


def reset(of: str, seconds: float) -> dict[str, str]:
    """Headers of Anthropic's for a limit that is used up."""
    name = f"anthropic-ratelimit-{of}"
    return {f"{name}-remaining": "0", f"{name}-reset": soon(seconds).isoformat()}


WAITS = {
    "seconds": lambda: {"retry-after": "900"},
    "a number": lambda: {"retry-after": "900.0"},
    "milliseconds": lambda: {"retry-after-ms": "900000"},
    "a date": lambda: {"retry-after": format_datetime(soon(900), usegmt=True)},
    "Anthropic's requests": lambda: reset("requests", 900),
    "Anthropic's tokens": lambda: reset("input-tokens", 900) | reset("tokens", 300),
}


@pytest.mark.parametrize("form", WAITS)
async def test_a_limit_waits_as_long_as_it_is_told(referee: Referee, model: str, form: str) -> None:
    referee.next = [(429, error(model, 429), WAITS[form]())]
    failure = await fail(referee, model)
    assert isinstance(failure, TransientModelError)
    assert failure.congestion == "rate"
    assert failure.retry_after is not None
    assert 600 < failure.retry_after <= 900  # time passes before a date


async def test_an_error_in_a_success_is_that_error(referee: Referee, model: str) -> None:
    referee.next = [(200, error(model, 429), {}), (200, error(model, 401), {})]
    assert isinstance(await fail(referee, model), TransientModelError)
    assert isinstance(await fail(referee, model), FatalModelError)


@pytest.mark.parametrize("body", [b"", b"null", b'{"id":"x"}', b"<html>busy</html>", b'{"choices":[', b"[]", b"7"])
async def test_what_is_no_answer_is_asked_for_again(referee: Referee, model: str, body: bytes) -> None:
    referee.next = [(200, body, {})]
    assert isinstance(await fail(referee, model), NoAnswer)


async def test_a_refused_parameter_stops_with_its_name(referee: Referee, model: str) -> None:
    messages = {
        "responses": "Unsupported parameter: 'temperature' is not supported with this model.",
        "openai": "Unsupported value: 'temperature' does not support 0 with this model.",
        "anthropic": "`temperature` is not supported on this model.",
        "gemini": "Invalid JSON payload received. Unknown name \"temperature\" at 'generation_config'.",
    }
    referee.next = [(400, error(model, 400, messages[model]), {})]
    failure = await fail(referee, model, params={"temperature": 0})
    assert isinstance(failure, FatalModelError)
    assert "'temperature'" in failure.message
    assert "Take temperature out of params" in failure.hint


async def test_a_mode_that_is_refused_is_replaced_and_remembered(referee: Referee, model: str) -> None:
    messages = {
        "responses": "Invalid parameter: 'text.format' of type 'json_schema' is not supported with this model.",
        "openai": "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        "anthropic": "output_config.format: structured outputs are not supported on this model",
        "gemini": "JSON mode is not enabled for this model: response_mime_type application/json is unsupported",
    }
    referee.next = [(400, error(model, 400, messages[model]), {})]
    for text in ('x [[answer: {"a": 3}]]', 'y [[answer: {"a": 3}]]'):
        message = await put(referee, model, text, **declared(SCHEMA))
        assert FORM.read(message) == {"a": 3}
    bodies = [orjson.dumps(body) for _, _, body in referee.sent]
    assert [b"json_schema" in body or b"responseJsonSchema" in body for body in bodies] == [True, False, False]


async def test_limits_are_read_from_headers(referee: Referee, model: str) -> None:
    if model == "gemini":
        return  # it says nothing of its limits
    named = "anthropic-ratelimit-{0}-limit" if model == "anthropic" else "x-ratelimit-limit-{0}"
    protocol = protocol_of(MODELS[model][1])
    assert protocol is not None
    completion = {
        "id": "chatcmpl-1", "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    }  # fmt: skip
    referee.next = [
        (200, protocol.answer(completion), {named.format("requests"): "50", named.format("tokens"): "40000"})
    ]
    provider, _, name = MODELS[model][0].partition(":")
    base_url = f"{referee.url}/v1" if provider == "openai" else referee.url
    params = {"base_url": base_url, **({"api": "responses"} if model == "responses" else {})}
    result = await client_of(provider, name, params, 30)._agenerate([HumanMessage("x")])
    assert allowed_by(result) == Rates(50, 40_000)


def test_a_limit_of_a_day_is_no_limit_a_minute() -> None:
    tomorrow = soon(80_000).isoformat()
    limit = {f"anthropic-ratelimit-requests-{name}": value
             for name, value in (("limit", "1000"), ("remaining", "500"), ("reset", tomorrow))}  # fmt: skip
    assert rates_of(limit) == Rates(float("inf"), float("inf"))
    limit["anthropic-ratelimit-requests-reset"] = soon(30).isoformat()
    assert rates_of(limit) == Rates(1000, float("inf"))


# Answers that are none ------------------------------------------------------------------------------------------------


def cut_off(model: str, text: str, thinking: str = "", reasoning: int = 0) -> Any:
    protocol = protocol_of(MODELS[model][1])
    assert protocol is not None
    message = {"role": "assistant", "content": text, "thinking": thinking}
    usage = {"prompt_tokens": 3, "completion_tokens": 9}
    usage_details = {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    return protocol.answer({
        "id": "chatcmpl-1", "model": "m", "usage": {**usage, **usage_details},
        "choices": [{"message": message, "finish_reason": "length"}],
    })  # fmt: skip


@pytest.mark.parametrize(
    ("text", "thinking", "reasoning", "words"),
    [
        ('{"a": 1', "", 0, "cut off at max_tokens"),
        ('{"a": 1,' + " " * 500, "", 0, "cut off at max_tokens"),
        ("", "Hm.", 9, "still thinking"),
        ("", "", 9, "still thinking"),
    ],
    ids=["in mid-JSON", "in a loop of blanks", "in thought", "in thought that is not shown"],
)
async def test_an_answer_that_was_cut_off_is_told_by_what_ate_its_cap(
    referee: Referee, model: str, text: str, thinking: str, reasoning: int, words: str
) -> None:
    referee.next = [(200, cut_off(model, text, thinking, reasoning), {})]
    message = await put(referee, model, **declared(SCHEMA))
    with pytest.raises(RowError, match=words) as caught:
        FORM.read(message)
    assert caught.value.kind == ("truncated_thinking" if "thinking" in words else "truncated")
    assert "params.max_tokens" in (caught.value.hint or "")
