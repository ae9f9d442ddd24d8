"""Gemini's embedding models by their own protocol: many texts a request, one answer a text."""

import struct
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import PrivateAttr

from stages.models.embeddings.shared_requests import SharedRequests, divided
from stages.models.embeddings.vectors import packed, result_of, text_of
from stages.models.wires.body import no_completion
from stages.models.wires.protocols.answer import counted
from stages.models.wires.transport import ProviderChatModel

MOST_TEXTS = 100  # of one request: ai.google.dev/api/embeddings, batchEmbedContents
# As LangChain's class has it, by which these models were called before: other vectors would be other answers.
_USUAL_TASK = "RETRIEVAL_QUERY"


class GeminiEmbeddings(ProviderChatModel):
    """`POST /v1/models/<model>:batchEmbedContents`."""

    _shared: SharedRequests[ChatResult] = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._shared = SharedRequests(self._embed, most_texts=MOST_TEXTS)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return await self._shared.result(text_of(messages))

    async def _embed(self, texts: list[str]) -> list[ChatResult]:
        """Embed texts in one request. The tokens that it reports are divided by the lengths of the texts."""
        name = self.model if "/" in self.model else f"models/{self.model}"
        asked = {"model": name, **self._settings()}
        body = {"requests": [{"content": {"parts": [{"text": text}], "role": "user"}, **asked} for text in texts]}
        answer, headers = await self._post(orjson.dumps(body), f"v1/{name}:batchEmbedContents", len(texts))
        try:
            contents = [packed(one["values"]) for one in answer["embeddings"]]
            if len(contents) != len(texts):
                raise ValueError(f"{len(contents)} vectors for {len(texts)} texts")
        except (KeyError, TypeError, ValueError, struct.error) as exc:
            raise no_completion(orjson.dumps(answer)) from exc
        read = counted(answer.get("usageMetadata"), "promptTokenCount", "totalTokenCount")
        tokens = [None] * len(texts) if read is None else divided(read, [len(text.encode()) for text in texts])
        metadata = {"request_id": headers.get("x-request-id")}
        return [result_of(content, part, metadata) for content, part in zip(contents, tokens, strict=True)]

    def _settings(self) -> dict[str, Any]:
        found = {
            "taskType": str(self.params.get("task_type") or _USUAL_TASK).upper(),
            "title": self.params.get("title"),
            "outputDimensionality": self.params.get("output_dimensionality", self.params.get("dimensions")),
        }
        return {name: value for name, value in found.items() if value is not None}
