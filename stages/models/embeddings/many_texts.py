"""A model that embeds many texts in one request, called by one text at a time."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import PrivateAttr

from stages.models.embeddings.shared_requests import MOST_BYTES, MOST_TEXTS, SharedRequests, divided
from stages.models.embeddings.vectors import packed, result_of, text_of
from stages.models.wires.body import no_completion
from stages.models.wires.transport import ProviderChatModel


class ManyTextsModel(ProviderChatModel):
    """Texts that are under way at the same moment go in one request, of at most `most_texts` and `most_bytes`."""

    most_texts: int = MOST_TEXTS
    most_bytes: int = MOST_BYTES
    _shared: SharedRequests[ChatResult] = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._shared = SharedRequests(self._embed, self.most_texts, self.most_bytes)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return await self._shared.result(text_of(messages))

    async def _embed(self, texts: list[str]) -> list[ChatResult]:
        """Embed texts in one request; one result a text, in their order."""
        raise NotImplementedError


def results_of(
    answer: dict[str, Any],
    vectors: Callable[[dict[str, Any]], Sequence[Any]],
    texts: Sequence[str],
    tokens: int | None,
    request_id: str | None,
) -> list[ChatResult]:
    """Return what an answer holds of these texts: `vectors` finds their vectors in it. Its tokens are divided by the
    lengths of the texts. Raises NoAnswer for an answer without a vector for each."""
    try:
        contents = [packed(vector) for vector in vectors(answer)]
        if len(contents) != len(texts):
            raise ValueError(f"{len(contents)} vectors for {len(texts)} texts")
    except (KeyError, IndexError, TypeError, ValueError, struct.error) as exc:
        raise no_completion(orjson.dumps(answer)) from exc
    parts: Sequence[int | None] = [None] * len(texts)
    if tokens is not None:
        parts = divided(tokens, [len(text.encode()) for text in texts])
    metadata = {"request_id": request_id}
    return [result_of(content, part, metadata) for content, part in zip(contents, parts, strict=True)]


def without_nothing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are set."""
    return {name: value for name, value in settings.items() if value is not None}
