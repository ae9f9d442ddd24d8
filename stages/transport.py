"""The hot path to OpenAI-compatible endpoints: a thin chat model over one shared aiohttp session per event loop.

A call costs a fraction of what `ChatOpenAI` on its default client does (`make bench`); it speaks the part of the Chat
Completions API that enrichment uses: messages, tools, response_format, usage. Never retries: that is `stages.calls`.
"""

import asyncio
import os
import weakref
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, SecretStr

from schemas.errors import RowError, TransientModelError
from stages.failures import from_status

DEFAULT_BASE_URL = "https://api.openai.com/v1"
MAX_ANSWER_BYTES = 1_000_000
_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = weakref.WeakKeyDictionary()


def session() -> aiohttp.ClientSession:
    """The event loop's shared session. Concurrency is bounded by the limiter, so the pool itself is not."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=30)
        found = _sessions[loop] = aiohttp.ClientSession(connector=connector, trust_env=True)
    return found


async def close_session() -> None:
    """Close the running loop's session; to be awaited before the loop ends."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None and not found.closed:
        await found.close()


class OpenAICompatibleChatModel(BaseChatModel):
    """`openai:<model>` at `OPENAI_BASE_URL`, or at `base_url` of its params."""

    model: str
    base_url: str = DEFAULT_BASE_URL
    api_key: SecretStr | None = None
    timeout_s: float = 60.0
    params: dict[str, Any] = Field(default_factory=dict, description="sent with each request as they are")
    headers: dict[str, str] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "tandem-openai-compatible"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url, **self.params}

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        declared = [convert_to_openai_tool(tool) for tool in tools]
        if tool_choice is not None:
            named = any(tool["function"]["name"] == tool_choice for tool in declared)
            word = "required" if tool_choice == "any" else tool_choice
            kwargs["tool_choice"] = {"type": "function", "function": {"name": tool_choice}} if named else word
        return self.bind(tools=declared, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        async def once() -> ChatResult:
            try:
                return await self._agenerate(messages, stop, None, **kwargs)
            finally:
                await close_session()

        return asyncio.run(once())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """One request. Raises TransientModelError, RowError or FatalModelError."""
        payload = {"model": self.model, "messages": [wire(m) for m in messages], **self.params, **kwargs}
        if stop:
            payload["stop"] = stop
        answer, request_id = await self._post(orjson.dumps(payload))
        return _result(answer, request_id, self.model)

    async def _post(self, body: bytes) -> tuple[dict[str, Any], str | None]:
        headers = {"Content-Type": "application/json", **self.headers}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        try:
            async with session().post(
                url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=self.timeout_s)
            ) as response:
                raw = await _read_capped(response)
                if response.status != 200:
                    raise from_status(
                        response.status,
                        raw.decode("utf-8", "replace"),
                        headers=response.headers,
                        model=self.model,
                        setting="OPENAI_API_KEY",
                    )
                return _parsed(raw), response.headers.get("x-request-id")
        except TimeoutError as exc:
            raise TransientModelError(f"{self.model}: no answer within {self.timeout_s:g} s") from exc
        except aiohttp.ClientError as exc:
            raise TransientModelError(f"{self.model}: {_url_host(url)}: {type(exc).__name__}") from exc


async def _read_capped(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            response.close()
            raise RowError(f"the answer is larger than {MAX_ANSWER_BYTES:,} bytes", kind="oversized_answer")
        chunks.append(chunk)
    return b"".join(chunks)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(raw)
        if isinstance(answer, dict):
            return answer
    except orjson.JSONDecodeError:
        pass
    raise RowError(
        "the provider's answer is not the JSON of a completion",
        kind="malformed_response",
        raw=raw[:2000].decode("utf-8", "replace"),
    )


def wire(message: BaseMessage) -> dict[str, Any]:
    """A LangChain message in the API's form."""
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type, "user")
    out: dict[str, Any] = {"role": role, "content": message.content}
    if isinstance(message, AIMessage) and message.tool_calls:
        out["content"] = message.content or None
        out["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": orjson.dumps(call["args"]).decode()},
            }
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        out["tool_call_id"] = message.tool_call_id
    return out


def _result(answer: dict[str, Any], request_id: str | None, model: str) -> ChatResult:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RowError(
            "the provider's answer has no choices", kind="empty_answer", raw=orjson.dumps(answer)[:2000].decode()
        )
    choice = choices[0]
    said = choice.get("message") or {}
    metadata = {
        "finish_reason": choice.get("finish_reason"),
        "model_name": answer.get("model", model),
        "request_id": request_id or answer.get("id"),
    }
    extra = {"refusal": said["refusal"]} if said.get("refusal") else {}
    calls, invalid = _tool_calls(said.get("tool_calls") or [])
    message = AIMessage(
        content=said.get("content") or "",
        additional_kwargs=extra,
        response_metadata=metadata,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_usage(answer.get("usage")),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _tool_calls(raw: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    calls, invalid = [], []
    for call in raw:
        function = call.get("function") or {}
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
            calls.append({"name": function["name"], "args": arguments, "id": call.get("id"), "type": "tool_call"})
        except (orjson.JSONDecodeError, KeyError):
            invalid.append(
                {
                    "name": function.get("name"),
                    "args": function.get("arguments"),
                    "id": call.get("id"),
                    "error": "arguments are not JSON",
                    "type": "invalid_tool_call",
                }
            )
    return calls, invalid


def _usage(raw: dict[str, Any] | None) -> UsageMetadata | None:
    if not raw:
        return None
    given, got = raw.get("prompt_tokens") or 0, raw.get("completion_tokens") or 0
    usage = UsageMetadata(input_tokens=given, output_tokens=got, total_tokens=given + got)
    cached = (raw.get("prompt_tokens_details") or {}).get("cached_tokens")
    reasoning = (raw.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if cached:
        usage["input_token_details"] = {"cache_read": cached}
    if reasoning:
        usage["output_token_details"] = {"reasoning": reasoning}
    return usage


def _url_host(url: str) -> str:
    return url.split("//", 1)[-1].split("/", 1)[0]


def base_url_from_environment() -> str:
    return os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE") or DEFAULT_BASE_URL
