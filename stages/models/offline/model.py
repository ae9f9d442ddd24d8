"""The `offline:` model: a chat model for demos and tests that needs no key and no network.

It counts words (see `stages.models.offline.rules`) in the last human message; system messages are instructions, not
data. The same messages and schema give the same answer in every process. It neither streams nor honours sampling
parameters."""

import asyncio
import json
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from stages.models.chat_model import ChatModel, canonical_tool
from stages.models.offline.reading import Text
from stages.models.offline.rules import Schema, answer_text
from stages.text.quoting import unquoted
from stages.text.tokens import tokens_of_bytes

_ANY_OBJECT: Schema = {"type": "object", "properties": {"summary": {"type": "string"}}}


def answer(messages: Sequence[BaseMessage], schema: Schema | None) -> str:
    """Return JSON for `schema`, or without one the text's first sentences."""
    text = next((_text(message) for message in reversed(messages) if isinstance(message, HumanMessage)), "")
    text = unquoted(text)
    if schema is None:
        return Text(text).summary()
    return json.dumps(answer_text(text, schema), ensure_ascii=False)


class OfflineChatModel(ChatModel):
    """`offline:lexical`. `latency_ms` makes a call last as long as a provider's, for benchmarks."""

    model: str = "lexical"
    latency_ms: int = 0

    @property
    def _llm_type(self) -> str:
        return "offline"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "latency_ms": self.latency_ms}

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if self.latency_ms:
            time.sleep(self.latency_ms / 1000)
        return self._result(messages, **kwargs)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if self.latency_ms:
            await asyncio.sleep(self.latency_ms / 1000)
        return self._result(messages, **kwargs)

    def with_tools(
        self, tools: Sequence[Any], *, tool_choice: str | dict[str, Any] | bool | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of a request with tools: a forced one is called; an optional one never is."""
        return {"tools": [canonical_tool(tool) for tool in tools], "tool_choice": tool_choice, **kwargs}

    def _result(self, messages: list[BaseMessage], **kwargs: Any) -> ChatResult:
        tool = _forced_tool(kwargs.get("tools") or [], kwargs.get("tool_choice"))
        calls = []
        if tool:
            content, result = "", answer(messages, tool.get("parameters") or {"type": "object"})
            number = blake2b(result.encode(), digest_size=8).hexdigest()
            calls = [{"name": tool["name"], "args": json.loads(result), "id": f"call_{number}", "type": "tool_call"}]
        else:
            content = result = answer(messages, _requested_schema(kwargs.get("response_format")))
        read, written = _tokens(*map(_text, messages)), _tokens(result)
        message = AIMessage(
            content=content,
            tool_calls=calls,
            usage_metadata={"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
            response_metadata={"finish_reason": "stop", "model_name": f"offline:{self.model}"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _text(message: BaseMessage) -> str:
    return message.content if isinstance(message.content, str) else str(message.text)


def _tokens(*texts: str) -> int:
    return tokens_of_bytes(sum(len(text.encode("utf-8", "replace")) for text in texts))


def _requested_schema(response_format: dict[str, Any] | None) -> Schema | None:
    kind = (response_format or {}).get("type", "text")
    if response_format and kind == "json_schema":
        schema: Schema = response_format["json_schema"]["schema"]
        return schema
    return _ANY_OBJECT if kind == "json_object" else None


def _forced_tool(tools: Sequence[dict[str, Any]], choice: Any) -> dict[str, Any] | None:
    """Return the function that `tool_choice`, in OpenAI's or LangChain's spelling, requires to be called."""
    if isinstance(choice, dict):
        choice = choice.get("function", choice).get("name")
    if not tools or choice in (None, False, "auto", "none"):
        return None
    functions: list[dict[str, Any]] = [tool["function"] for tool in tools]
    return next((function for function in functions if function["name"] == choice), functions[0])
