"""The hot path to providers: a thin chat model over their wires and one shared session per event loop.

A call costs a fraction of what LangChain's classes on their default clients do (`make bench`); it has the part of each
protocol that enrichment uses: messages, tools, schemas, usage. Never retries: that is `stages.models.calls`."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import Field, SecretStr, SkipValidation

from schemas.errors import FatalModelError, ModelError, RowError, TransientModelError
from stages.limits.rate_headers import ALLOWED, rates_of
from stages.models import credentials
from stages.models.chat_model import ChatModel, canonical_tool
from stages.models.failures.errors import from_status
from stages.models.wires.body import completion_in, no_completion
from stages.models.wires.dialect import Dialect
from stages.models.wires.facts import UNKNOWN, Caching, Facts
from stages.models.wires.marks import with_marks
from stages.models.wires.media import refuse_media
from stages.models.wires.protocols.openai_chat import OpenAIChat, wire
from stages.models.wires.protocols.search import TURNS
from stages.models.wires.protocols.wire import Wire
from stages.models.wires.signing import Sign

_MOST_PAUSES = 10  # of one answer
_MAX_FORMS = 6  # of one request, each learned from the refusal of the one before
# Request forms that endpoints accept, by (base URL, model); the same for all stages of a process.
_dialects: defaultdict[tuple[str, str], Dialect] = defaultdict(Dialect)


class ProviderChatModel(ChatModel):
    """A model at `base_url` by the protocol `wire`. `setting`: the variable that holds its key, for errors;
    `sign`: returns the headers that prove who asks, where no key does: of the URL, the headers and the body;
    `caching`: how the provider caches prompts, if it is to; `facts`: what it takes, at its own address;
    `batch_deployment`: the name of the model in batch jobs, where they have another (Azure); `batch_role` and
    `batch_output`: the role that batch jobs run as, and the place of their files (Bedrock)."""

    model: str
    wire: SkipValidation[Wire] = Field(default_factory=OpenAIChat)
    base_url: str = credentials.OPENAI
    api_key: SecretStr | None = None
    setting: str = "OPENAI_API_KEY"
    sign: Sign | None = None
    batch_deployment: str = ""
    batch_role: str = ""
    batch_output: str = ""
    timeout_s: float = 60.0
    params: dict[str, Any] = Field(default_factory=dict, description="sent with each request as they are")
    headers: dict[str, str] = Field(default_factory=dict)
    caching: Caching | None = None
    facts: Facts = UNKNOWN

    @property
    def _llm_type(self) -> str:
        return "tandem-provider"

    @property
    def cap_name(self) -> str:
        """The parameter that caps an answer: reasoning models require the newer name, other servers know the older."""
        return "max_completion_tokens" if self.base_url == credentials.OPENAI else "max_tokens"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url, **self.params}

    def with_tools(
        self, tools: Sequence[Any], *, tool_choice: str | dict[str, Any] | bool | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of a request with tools in their canonical form; one that the provider runs is given as
        its own dict."""
        strict = kwargs.pop("strict", None)
        declared = [tool if _is_providers(tool) else canonical_tool(tool, strict=strict) for tool in tools]
        if tool_choice:
            named = any(tool.get("function", {}).get("name") == tool_choice for tool in declared)
            word = "required" if tool_choice in ("any", True) else tool_choice
            kwargs["tool_choice"] = {"type": "function", "function": {"name": tool_choice}} if named else word
        return {"tools": declared, **kwargs}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        async def once() -> ChatResult:
            try:
                return await self._agenerate(messages, stop, None, **kwargs)
            finally:
                from stages.models.wires.http import close_session

                await close_session()

        return asyncio.run(once())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Send one request. Raises TransientModelError, RowError or FatalModelError."""
        payload = self._payload(messages, stop, kwargs)
        modes = self.wire.schema_modes(payload) if "response_format" in payload else ()
        dialect = _dialects[self.base_url, self.model]
        for _ in range(_MAX_FORMS):
            sent = dialect.apply(payload, modes)
            try:
                result = await self._completion(sent)
            except RowError as exc:
                if dialect.apply(payload, modes) == sent and not dialect.learn(exc, sent, self.model, modes):
                    raise
            else:
                dialect.accepted.update(sent)
                return result
        return await self._completion(dialect.apply(payload, modes))

    def _payload(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any], *, marked: bool = True
    ) -> dict[str, Any]:
        """Return the canonical request, `marked` for the provider's cache."""
        payload = {
            "model": self.model, "messages": [wire(m) for m in messages], "stream": False, **self.params, **kwargs,
        }  # fmt: skip
        if stop:
            payload["stop"] = stop
        refuse_media(payload["messages"], self.facts, self.model)
        if self.caching is None:
            return payload
        return with_marks(payload, messages if marked else (), self.caching, self.base_url == credentials.OPENAI)

    def body_of(self, messages: list[BaseMessage], stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return a request in the provider's own form, for a batch job: a live call's, of which nothing is streamed.
        Without our marks for its cache: in a job no call goes ahead, so that each might write it, at more than the
        price of plain tokens."""
        payload = self._payload(messages, stop, kwargs, marked=False)
        modes = self.wire.schema_modes(payload) if "response_format" in payload else ()
        body = self.wire.body(_dialects[self.base_url, self.model].apply(payload, modes))
        return {name: value for name, value in body.items() if name != "stream"}

    async def _completion(self, payload: dict[str, Any]) -> ChatResult:
        body = self.wire.body(payload)
        answer, headers = await self._post(orjson.dumps(body), self.wire.path(self.model))
        try:
            answer, turns = await self._whole(body, answer)
            result = self.wire.result(answer, headers, self.model)
        except (AttributeError, TypeError, ValueError, KeyError, IndexError) as exc:
            raise no_completion(orjson.dumps(answer)) from exc
        if turns > 1:
            result.generations[0].message.response_metadata[TURNS] = turns
        if (allowed := rates_of(headers)) is not None:
            result.llm_output = {ALLOWED: allowed}
        return result

    async def _whole(self, body: dict[str, Any], answer: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Return an answer with what comes after its pauses, which a provider takes in long turns of tools of its own,
        and the number of turns. Raises RowError for one that does not end."""
        turns = 1
        while (rest := self.wire.rest(body, answer)) is not None:
            if turns > _MOST_PAUSES:
                endless = RowError(
                    f"{self.model}: the answer paused more than {_MOST_PAUSES} times", kind="endless_answer"
                )
                endless.billed = True
                raise endless
            try:
                further, _ = await self._post(orjson.dumps(rest), self.wire.path(self.model))
            except (ModelError, FatalModelError) as exc:
                exc.billed = True  # the turns before it were answered
                raise
            answer = self.wire.joined(answer, further)
            turns += 1
        return answer, turns

    async def _post(self, body: bytes, path: str, answers: int = 1) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Send a body. `answers`: so many answers may come in one."""
        key = self.api_key.get_secret_value() if self.api_key is not None else ""
        headers = {"Content-Type": "application/json", **self.wire.headers(key), **self.headers}
        url = f"{self.base_url.rstrip('/')}/{path}"
        if self.sign is not None:
            headers |= await self._signed(self.sign, url, headers, body)
        from stages.models.wires import http  # aiohttp

        most = answers * http.MAX_ANSWER_BYTES
        answer = await http.post(url, body, headers, timeout_s=self.timeout_s, model=self.model, max_bytes=most)
        if answer.status != 200:
            raise self.failure_of(answer.status, answer.body, answer.headers)
        completion = completion_in(answer.body)
        if (failure := self.wire.failure(completion)) is not None:  # some gateways fail with a 200
            raise self.failure_of(failure[0], failure[1].encode(), answer.headers)
        return completion, answer.headers

    async def _signed(self, sign: Sign, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """Return the headers that prove who asks. Raises TransientModelError for a token that takes too long: nothing
        was sent that could be billed."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await sign(url, headers, body)
        except TimeoutError:
            raise TransientModelError(
                f"{self.model}: the provider's credentials were not renewed within {self.timeout_s:g} s"
            ) from None

    def failure_of(self, status: int, error_body: bytes, headers: Mapping[str, str]) -> ModelError | FatalModelError:
        """Return the error of an answer that is none."""
        text = error_body.decode("utf-8", "replace")
        return from_status(
            status, text, headers=headers, model=self.model, setting=self.setting, base_url=self.base_url
        )


def _is_providers(tool: Any) -> bool:
    """True for a tool that the provider runs, in its own form."""
    return isinstance(tool, dict) and "function" not in tool and tool.get("type", "function") not in (
        "function", "custom", "object",
    )  # fmt: skip
