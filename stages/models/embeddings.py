"""Embedding models as chat models: a text in, a vector out, as base64 of little-endian 32-bit floats.

So a vector is journalled, limited, retried and paid for by the same code as an answer.
"""

import base64
import struct
from typing import Any

import orjson
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict

from schemas.errors import RowError
from stages.models.wires.body import no_completion
from stages.models.wires.openai_chat import counted
from stages.models.wires.transport import OpenAICompatibleChatModel


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def unpacked(text: str) -> list[float]:
    """Decode a packed vector. Raises ValueError if the text is none."""
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
        payload = {"model": self.model, "input": text_of(messages), "encoding_format": "base64", **self.params}
        answer, headers = await self._post(orjson.dumps(payload), "embeddings")
        try:
            vector = answer["data"][0]["embedding"]
            content = vector if isinstance(vector, str) else packed(vector)  # some servers know no base64
            usage = answer.get("usage")
            read = counted(usage, "prompt_tokens", "total_tokens") if isinstance(usage, dict) else None
        except (KeyError, IndexError, TypeError, ValueError, struct.error) as exc:
            raise no_completion(orjson.dumps(answer)) from exc
        return result_of(content, read, {"request_id": headers.get("x-request-id")})


class ForeignEmbeddings(BaseChatModel):
    """Any provider's, through LangChain's Embeddings. They report no usage: tokens are estimated."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    embeddings: Any

    @property
    def _llm_type(self) -> str:
        return "embeddings"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return result_of(packed(self.embeddings.embed_query(text_of(messages))), None)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return result_of(packed(await self.embeddings.aembed_query(text_of(messages))), None)


def text_of(messages: list[BaseMessage]) -> str:
    """Return the text to embed. Raises RowError if it is not text."""
    content = messages[-1].content
    if not isinstance(content, str):
        raise RowError("only text can be embedded", kind="not_text")
    return content


def result_of(content: str, read: int | None, metadata: dict[str, Any] | None = None) -> ChatResult:
    """Return a packed vector as a chat model's answer, with its tokens, if they are known."""
    usage = None if read is None else UsageMetadata(input_tokens=read, output_tokens=0, total_tokens=read)
    message = AIMessage(content=content, usage_metadata=usage, response_metadata=metadata or {})
    return ChatResult(generations=[ChatGeneration(message=message)])
