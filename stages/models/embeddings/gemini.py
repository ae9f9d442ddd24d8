"""Gemini's embedding models by their own protocol, of AI Studio and of Vertex AI: many texts a request."""

from typing import Any

import orjson
from langchain_core.outputs import ChatResult

from stages.models import credentials
from stages.models.embeddings.many_texts import ManyTextsModel, results_of, without_nothing
from stages.models.wires.protocols.answer import counted
from stages.models.wires.protocols.gemini import resource_of

MOST_TEXTS = 100  # of one request: ai.google.dev/api/embeddings, batchEmbedContents
# cloud.google.com/vertex-ai/generative-ai/docs/embeddings/get-text-embeddings: 250 texts and 20,000 tokens.
MOST_PREDICTED, MOST_PREDICTED_BYTES = 250, 20_000
# As LangChain's class has it, by which these models were called before: other vectors would be other answers.
_USUAL_TASK = "RETRIEVAL_QUERY"


class GeminiEmbeddings(ManyTextsModel):
    """`POST /v1/models/<model>:batchEmbedContents`."""

    most_texts: int = MOST_TEXTS

    async def _embed(self, texts: list[str]) -> list[ChatResult]:
        name = self.model if "/" in self.model else f"models/{self.model}"
        asked = {"model": name, **settings_of(self.params)}
        body = {"requests": [{"content": _content(text), **asked} for text in texts]}
        version = credentials.google_version("v1", "v1beta")
        answer, headers = await self._post(orjson.dumps(body), f"{version}/{name}:batchEmbedContents", len(texts))
        return results_of(answer, _batch, texts, _tokens(answer), headers.get("x-request-id"))


class VertexEmbeddings(ManyTextsModel):
    """Gemini's models by `…:batchEmbedContents`, or `…:embedContent` for one text; the older ones by `…:predict`, as
    Google's SDK does. `place`: the beginning of the path, see `VertexGenerate`."""

    place: str = ""

    def model_post_init(self, context: Any) -> None:
        predicted = "gemini" not in self.model
        self.most_texts = MOST_PREDICTED if predicted else MOST_TEXTS
        self.most_bytes = MOST_PREDICTED_BYTES if predicted else self.most_bytes
        super().model_post_init(context)

    async def _embed(self, texts: list[str]) -> list[ChatResult]:
        resource, asked = resource_of(self.model, self.place), settings_of(self.params)
        if "gemini" not in self.model:
            return await self._predicted(resource, texts, asked)
        requests = [{"content": _content(text), **({"embedContentConfig": asked} if asked else {})} for text in texts]
        many = len(texts) > 1
        body = {"requests": requests} if many else requests[0]
        path = f"{resource}:{'batchEmbedContents' if many else 'embedContent'}"
        answer, headers = await self._post(orjson.dumps(body), path, len(texts))
        vectors = _batch if many else lambda found: [found["embedding"]["values"]]
        return results_of(answer, vectors, texts, _tokens(answer), headers.get("x-request-id"))

    async def _predicted(self, resource: str, texts: list[str], asked: dict[str, Any]) -> list[ChatResult]:
        size = asked.pop("outputDimensionality", None)
        of_each = {{"taskType": "task_type"}.get(name, name): value for name, value in asked.items()}
        body: dict[str, Any] = {"instances": [{"content": text, **of_each} for text in texts]}
        if size is not None:
            body["parameters"] = {"outputDimensionality": size}
        answer, headers = await self._post(orjson.dumps(body), f"{resource}:predict", len(texts))
        return results_of(answer, _predictions, texts, _counted_tokens(answer), headers.get("x-request-id"))


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of vectors as Gemini names them."""
    return without_nothing({
        "taskType": str(params.get("task_type") or _USUAL_TASK).upper(),
        "title": params.get("title"),
        "outputDimensionality": params.get("output_dimensionality", params.get("dimensions")),
    })  # fmt: skip


def _content(text: str) -> dict[str, Any]:
    return {"parts": [{"text": text}], "role": "user"}


def _batch(answer: dict[str, Any]) -> list[Any]:
    return [one["values"] for one in answer["embeddings"]]


def _predictions(answer: dict[str, Any]) -> list[Any]:
    return [one["embeddings"]["values"] for one in answer["predictions"]]


def _tokens(answer: dict[str, Any]) -> int | None:
    return counted(answer.get("usageMetadata"), "promptTokenCount", "totalTokenCount")


def _counted_tokens(answer: dict[str, Any]) -> int | None:
    """Return the sum of the tokens of all predictions, None if one has no count."""
    try:
        return sum(int(one["embeddings"]["statistics"]["token_count"]) for one in answer["predictions"])
    except (KeyError, TypeError, ValueError):
        return None
