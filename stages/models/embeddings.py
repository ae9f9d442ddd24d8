"""Embedding models as chat models: a text in, a vector out, as base64 of little-endian 32-bit floats.

So a vector is journalled, limited, retried and paid for by the very code that does it for answers.
"""

import base64
import struct
from hashlib import blake2b
from typing import Any

import orjson
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict

from schemas.errors import RowError
from stages.models.wires.openai_chat import malformed
from stages.models.wires.transport import OpenAICompatibleChatModel
from stages.text.words import WORD, stem


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def unpacked(text: str) -> list[float]:
    """Raises ValueError where the text is no vector."""
    try:
        data = base64.b64decode(text, validate=True)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    except struct.error as exc:
        raise ValueError(str(exc)) from None


class OpenAICompatibleEmbeddings(OpenAICompatibleChatModel):
    """`/embeddings` at `OPENAI_BASE_URL`, or at `base_url` of its params."""

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        payload = {"model": self.model, "input": _text(messages), "encoding_format": "base64", **self.params}
        answer, headers = await self._post(orjson.dumps(payload), "embeddings")
        try:
            vector = answer["data"][0]["embedding"]
            content = vector if isinstance(vector, str) else packed(vector)  # some servers know no base64
            read = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, IndexError, TypeError, ValueError, struct.error) as exc:
            raise malformed(orjson.dumps(answer)) from exc
        return _result(content, read, {"request_id": headers.get("x-request-id")})


class OfflineEmbeddings(BaseChatModel):
    """`offline:`: words, hashed into so many dimensions; texts that share words lie near each other. For tests."""

    model: str = "lexical"
    dimensions: int = 64

    @property
    def _llm_type(self) -> str:
        return "offline-embeddings"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return self._vector(messages)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return self._vector(messages)

    def _vector(self, messages: list[BaseMessage]) -> ChatResult:
        text = _text(messages)
        vector = [0.0] * self.dimensions
        for word in WORD.findall(text):
            drawn = int.from_bytes(blake2b(stem(word).encode("utf-8", "replace"), digest_size=8).digest(), "big")
            vector[drawn % self.dimensions] += 1.0 if drawn >> 63 else -1.0
        length = sum(number * number for number in vector) ** 0.5 or 1.0
        return _result(packed([number / length for number in vector]), -(-len(text.encode("utf-8", "replace")) // 4))


class ForeignEmbeddings(BaseChatModel):
    """Any provider's, through LangChain's Embeddings. It tells no usage: tokens are estimated."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    embeddings: Any

    @property
    def _llm_type(self) -> str:
        return "embeddings"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return _result(packed(self.embeddings.embed_query(_text(messages))), None)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return _result(packed(await self.embeddings.aembed_query(_text(messages))), None)


def _text(messages: list[BaseMessage]) -> str:
    content = messages[-1].content
    if not isinstance(content, str):
        raise RowError("only text can be embedded", kind="bad_request")
    return content


def _result(content: str, read: int | None, said: dict[str, Any] | None = None) -> ChatResult:
    usage = None if read is None else UsageMetadata(input_tokens=read, output_tokens=0, total_tokens=read)
    message = AIMessage(content=content, usage_metadata=usage, response_metadata=said or {})
    return ChatResult(generations=[ChatGeneration(message=message)])
