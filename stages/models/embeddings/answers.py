"""Embedding models as chat models: a text in, a vector out, packed as `stages.models.embeddings.vectors` says."""

import struct
from collections.abc import Sequence
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult

from stages.models.chat_model import ChatModel
from stages.models.embeddings.many_texts import ManyTextsModel
from stages.models.embeddings.shared_requests import divided
from stages.models.embeddings.vectors import packed, result_of, text_of
from stages.models.wires.body import no_completion
from stages.models.wires.protocols.answer import counted


class OpenAICompatibleEmbeddings(ManyTextsModel):
    """`/embeddings` at `OPENAI_BASE_URL`, or at `base_url` of its params."""

    async def _embed(self, texts: list[str]) -> list[ChatResult]:
        """Embed texts in one request. The tokens that it reports are divided by the lengths of the texts."""
        answer, headers = await self._post(orjson.dumps(self._body(texts)), "embeddings", len(texts))
        return vectors_in(answer, [len(text.encode()) for text in texts], headers.get("x-request-id"))

    def _body(self, texts: list[str]) -> dict[str, Any]:
        return {
            "model": self.model, "input": texts[0] if len(texts) == 1 else texts, "encoding_format": "base64",
            **self.params,
        }  # fmt: skip

    def body_of(self, messages: list[BaseMessage], stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        return self._body([text_of(messages)])


def vectors_in(answer: dict[str, Any], sizes: Sequence[int], request_id: str | None) -> list[ChatResult]:
    """Return the vectors of texts of so many bytes in an answer, in their order. Raises NoAnswer."""
    try:
        vectors: list[Any] = [None] * len(sizes)
        for position, one in enumerate(answer["data"]):
            vectors[one.get("index", position)] = one["embedding"]
        # Some servers know no base64.
        contents = [vector if isinstance(vector, str) else packed(vector) for vector in vectors]
        usage = answer.get("usage")
        read = counted(usage, "prompt_tokens", "total_tokens") if isinstance(usage, dict) else None
    except (KeyError, IndexError, TypeError, ValueError, struct.error) as exc:
        raise no_completion(orjson.dumps(answer)) from exc
    tokens: Sequence[int | None] = [None] * len(sizes)
    if read is not None:
        tokens = divided(read, sizes)
    metadata = {"request_id": request_id}
    return [result_of(content, part, metadata) for content, part in zip(contents, tokens, strict=True)]


class ForeignEmbeddings(ChatModel):
    """Any provider's, through LangChain's Embeddings. They report no usage: tokens are estimated."""

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
