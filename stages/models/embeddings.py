"""Embedding models as chat models: a text in, a vector out, packed as `stages.models.vectors` says."""

import struct
from typing import Any

import orjson
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import ConfigDict

from stages.models.vectors import packed, result_of, text_of
from stages.models.wires.answer import counted
from stages.models.wires.body import no_completion
from stages.models.wires.transport import ProviderChatModel


class OpenAICompatibleEmbeddings(ProviderChatModel):
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
