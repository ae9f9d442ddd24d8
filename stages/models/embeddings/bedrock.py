"""Embedding models on Bedrock, by InvokeModel: Amazon's Titan and Nova take one text a request, Cohere's take 96.

Bodies are those of Amazon's user guide, docs.aws.amazon.com/bedrock/latest/userguide: model-parameters-titan-embed-text
and -embed, -embed-v4.
"""

from typing import Any
from urllib.parse import quote

import orjson
from langchain_core.outputs import ChatResult

from schemas.errors import SpecError
from stages.models.embeddings.many_texts import ManyTextsModel, results_of
from stages.models.wires.protocols.answer import counted

MOST_COHERE_TEXTS = 96
_TOKENS = "x-amzn-bedrock-input-token-count"
# As LangChain's class has it, by which these models were called before: other vectors would be other answers.
_USUAL_TYPE = "search_query"


class BedrockEmbeddings(ManyTextsModel):
    """`POST /model/<model>/invoke`. Raises SpecError for a model whose body is not known."""

    def model_post_init(self, context: Any) -> None:
        if not any(maker in self.model for maker in ("cohere.", "titan-embed", "nova")):
            raise SpecError(
                f"uses: embed: of Bedrock's models, Titan, Nova and Cohere embed texts, and {self.model!r} is none of "
                "them.",
                hint="For example: model: bedrock:amazon.titan-embed-text-v2:0",
            )
        self.most_texts = MOST_COHERE_TEXTS if "cohere." in self.model else 1
        super().model_post_init(context)

    async def _embed(self, texts: list[str]) -> list[ChatResult]:
        sent = [text.replace("\n", " ") for text in texts]  # as LangChain's class did, for the same reason
        body = orjson.dumps(self._body(sent))
        answer, headers = await self._post(body, f"model/{quote(self.model, safe='')}/invoke", len(texts))
        read = headers.get(_TOKENS, "")
        tokens = int(read) if read.isdecimal() else counted(answer, "inputTextTokenCount")
        return results_of(answer, _vectors, texts, tokens, headers.get("x-amzn-requestid"))

    def _body(self, texts: list[str]) -> dict[str, Any]:
        params = dict(self.params)
        size = params.pop("dimensions", None)
        if "cohere." in self.model:
            sized = {"output_dimension": size} if size is not None and "embed-v4" in self.model else {}
            return {"input_type": _USUAL_TYPE, "texts": texts, **sized, **params}
        if "nova" in self.model:
            text = {"truncationMode": "END", "value": texts[0]}
            asked = {"embeddingPurpose": "GENERIC_INDEX", **params, "text": text}
            sized = {} if size is None else {"embeddingDimension": size}
            return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": {**asked, **sized}}
        return {"inputText": texts[0], **({} if size is None else {"dimensions": size}), **params}


def _vectors(answer: dict[str, Any]) -> list[Any]:
    """Return the vectors of an answer: of Titan one, of Cohere a list or a list by type, of Nova a list of objects."""
    if "embedding" in answer:
        return [answer["embedding"]]
    found = answer["embeddings"]
    vectors = found["float"] if isinstance(found, dict) else found
    return [one["embedding"] if isinstance(one, dict) else one for one in vectors]
