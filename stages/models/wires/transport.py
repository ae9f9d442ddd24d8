"""The hot path to OpenAI-compatible endpoints: a thin chat model over one shared aiohttp session per event loop.

A call costs a fraction of what `ChatOpenAI` on its default client does (`make bench`); it speaks the part of the Chat
Completions API that enrichment uses: messages, tools, response_format, usage. Never retries: that is
`stages.models.calls`."""

import asyncio
import weakref
from collections import defaultdict
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
from stages.models.failures.errors import from_status
from stages.models.wires.body import completion_in, no_completion
from stages.models.wires.dialect import Dialect
from stages.models.wires.openai_chat import failure_of, result_of, wire

MAX_ANSWER_BYTES = 1_000_000
_MAX_FORMS = 6  # of one request, each learned from the refusal of the one before
# Request forms that endpoints accept, by (base URL, model); the same for all stages of a process.
_dialects: defaultdict[tuple[str, str], Dialect] = defaultdict(Dialect)
# One a loop, as aiohttp wants it; the worker closes its own.
_sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = weakref.WeakKeyDictionary()


def session() -> aiohttp.ClientSession:
    """Return the event loop's shared session. Concurrency is bounded by the limiter, so the pool itself is not."""
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
        """The parameter that caps an answer: reasoning models require the newer name, other servers know the older."""
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
        """Send one request. Raises TransientModelError, RowError or FatalModelError."""
        payload = {
            "model": self.model, "messages": [wire(m) for m in messages], "stream": False, **self.params, **kwargs,
        }  # fmt: skip
        if stop:
            payload["stop"] = stop
        dialect = _dialects[self.base_url, self.model]
        for _ in range(_MAX_FORMS):
            sent = dialect.apply(payload)
            try:
                result = await self._completion(sent)
            except RowError as exc:
                if dialect.apply(payload) == sent and not dialect.learn(exc, sent, self.model):
                    raise
            else:
                dialect.accepted.update(sent)
                return result
        return await self._completion(dialect.apply(payload))

    async def _completion(self, payload: dict[str, Any]) -> ChatResult:
        answer, headers = await self._post(orjson.dumps(payload))
        try:
            result = result_of(answer, headers.get("x-request-id"), self.model)
        except (AttributeError, TypeError, ValueError) as exc:
            raise no_completion(orjson.dumps(answer)) from exc
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
                    error_body = await _read_beginning(response)
                    raise self._failure(response.status, error_body, response.headers)
                answer = completion_in(await _read_capped(response))
                if (failure := failure_of(answer)) is not None:  # some gateways fail with a 200
                    raise self._failure(failure[0], failure[1].encode(), response.headers)
                return answer, response.headers
        except TimeoutError as exc:
            raise TransientModelError(f"{self.model}: no answer within {self.timeout_s:g} s") from exc
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.ClientConnectorCertificateError) as exc:
            raise FatalModelError(
                f"{self.model}: cannot call {_url_host(url)} ({type(exc).__name__})",
                hint=f"Check the base URL, {self.base_url}.",
            ) from exc
        except (aiohttp.ClientError, ConnectionError) as exc:
            raise TransientModelError(f"{self.model}: {_url_host(url)}: {type(exc).__name__}") from exc

    def _failure(self, status: int, error_body: bytes, headers: Mapping[str, str]) -> ModelError | FatalModelError:
        text = error_body.decode("utf-8", "replace")
        return from_status(
            status, text, headers=headers, model=self.model, setting="OPENAI_API_KEY", base_url=self.base_url
        )


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


async def _read_beginning(response: aiohttp.ClientResponse, limit: int = 65_536) -> bytes:
    """Read the beginning of an error's body; the rest is not used."""
    beginning = b""
    async for chunk in response.content.iter_any():
        beginning += chunk
        if len(beginning) > limit:
            response.close()
            break
    return beginning[:limit]


def _url_host(url: str) -> str:
    return url.split("//", 1)[-1].split("/", 1)[0]


@lru_cache(maxsize=64)
def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; cached, as aiohttp's `trust_env` reads it for each
    request."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
