"""Vectors without a provider: texts that share words lie near each other."""

from hashlib import blake2b
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult

from stages.models.chat_model import ChatModel
from stages.models.embeddings.vectors import packed, result_of, text_of
from stages.models.offline.words import WORD, stem
from stages.text.tokens import tokens


class OfflineEmbeddings(ChatModel):
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
        text = text_of(messages)
        vector = [0.0] * self.dimensions
        for word in WORD.findall(text):
            drawn = int.from_bytes(blake2b(stem(word).encode("utf-8", "replace"), digest_size=8).digest(), "big")
            vector[drawn % self.dimensions] += 1.0 if drawn >> 63 else -1.0
        length = sum(number * number for number in vector) ** 0.5 or 1.0
        return result_of(packed([number / length for number in vector]), tokens(text))
