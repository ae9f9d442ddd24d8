"""The hot path to OpenAI-compatible endpoints: a thin chat model over one shared aiohttp session per event loop.

A call costs a fraction of what `ChatOpenAI` on its default client does (`make bench`); it speaks the part of the Chat
Completions API that enrichment uses: messages, tools, response_format, usage. Never retries: that is
`stages.models.calls`."""

import asyncio
import weakref
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, SecretStr

from schemas.errors import FatalModelError, ModelError, RowError, TransientModelError
from stages.limits.rate_headers import ALLOWED, rates_of
from stages.models import credentials
from stages.models.errors import from_status
from stages.models.wires.openai_chat import asked_in_words, malformed, parsed, refuses_schemas, result_of, wire

MAX_ANSWER_BYTES = 1_000_000
# Endpoints that know no schemas, by (base URL, model): they are asked in words, from their first refusal on. A fact
# about the world, the same for all stages of a process, and a refused call a stage if it were kept with them.
_without_schemas: set[tuple[str, str]] = set()
# One a loop, as aiohttp wants it; the worker closes its own.
_sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = weakref.WeakKeyDictionary()


def session() -> aiohttp.ClientSession:
    """The event loop's shared session. Concurrency is bounded by the limiter, so the pool itself is not."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=30)
        found = _sessions[loop] = aiohttp.ClientSession(connector=connector)
    return found


async def close_session() -> None:
    """Close the running loop's session; to be awaited before the loop ends."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None and not found.closed:
        await found.close()


class OpenAICompatibleChatModel(BaseChatModel):
    """`openai:<model>` at `OPENAI_BASE_URL`, or at `base_url` of its params."""

    model: str
    base_url: str = credentials.OPENAI
    api_key: SecretStr | None = None
    timeout_s: float = 60.0
    params: dict[str, Any] = Field(default_factory=dict, description="sent with each request as they are")
    headers: dict[str, str] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "tandem-openai-compatible"

    @property
    def cap_name(self) -> str:
        """What bounds an answer: reasoning models insist on the newer name, other servers know the older."""
        return "max_completion_tokens" if self.base_url == credentials.OPENAI else "max_tokens"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url, **self.params}

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | dict[str, Any] | bool | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        declared = [convert_to_openai_tool(tool) for tool in tools]
        if tool_choice:
            named = any(tool["function"]["name"] == tool_choice for tool in declared)
            word = "required" if tool_choice in ("any", True) else tool_choice
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
        place = (self.base_url, self.model)
        if "response_format" not in payload:
            return await self._completion(payload)
        if place not in _without_schemas:
            try:
                return await self._completion(payload)
            except RowError as exc:
                if not refuses_schemas(exc):
                    raise
                _without_schemas.add(place)
        return await self._completion(asked_in_words(payload))

    async def _completion(self, payload: dict[str, Any]) -> ChatResult:
        answer, headers = await self._post(orjson.dumps(payload))
        if not answer.get("choices") and isinstance(answer.get("error"), dict):  # some gateways fail with a 200
            code = answer["error"].get("code")
            status = code if isinstance(code, int) and 400 <= code < 600 else 502
            raise self._failure(status, orjson.dumps(answer), {})
        try:
            result = result_of(answer, headers.get("x-request-id"), self.model)
        except (AttributeError, TypeError, ValueError) as exc:
            raise malformed(orjson.dumps(answer)) from exc
        if (allowed := rates_of(headers)) is not None:
            result.llm_output = {ALLOWED: allowed}
        return result

    async def _post(self, body: bytes, path: str = "chat/completions") -> tuple[dict[str, Any], Mapping[str, str]]:
        headers = {"Content-Type": "application/json", **self.headers}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        url = f"{self.base_url.rstrip('/')}/{path}"
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with session().post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False, proxy=_proxy(url)
            ) as response:
                if response.status != 200:
                    said = await _beginning(response)
                    raise self._failure(response.status, said, response.headers)
                return parsed(await _read_capped(response)), response.headers
        except TimeoutError as exc:
            raise TransientModelError(f"{self.model}: no answer within {self.timeout_s:g} s") from exc
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.ClientConnectorCertificateError) as exc:
            raise FatalModelError(
                f"{self.model}: cannot call {_url_host(url)} ({type(exc).__name__})", hint="Check the base URL."
            ) from exc
        except (aiohttp.ClientError, ConnectionError) as exc:
            raise TransientModelError(f"{self.model}: {_url_host(url)}: {type(exc).__name__}") from exc

    def _failure(self, status: int, said: bytes, headers: Mapping[str, str]) -> ModelError | FatalModelError:
        text = said.decode("utf-8", "replace")
        return from_status(status, text, headers=headers, model=self.model, setting="OPENAI_API_KEY")


async def _read_capped(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], response.content_length or 0
    if size <= MAX_ANSWER_BYTES:
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            chunks.append(chunk)
            if size > MAX_ANSWER_BYTES:
                break
    if size > MAX_ANSWER_BYTES:
        response.close()
        raise RowError(f"the answer is larger than {MAX_ANSWER_BYTES:,} bytes", kind="oversized_answer")
    return b"".join(chunks)


async def _beginning(response: aiohttp.ClientResponse, limit: int = 65_536) -> bytes:
    """An error's body, as far as anybody reads; the rest is not worth the wait."""
    said = b""
    async for chunk in response.content.iter_any():
        said += chunk
        if len(said) > limit:
            response.close()
            break
    return said[:limit]


def _url_host(url: str) -> str:
    return url.split("//", 1)[-1].split("/", 1)[0]


@lru_cache(maxsize=64)
def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL; asked once, as aiohttp's `trust_env` would for each request."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
