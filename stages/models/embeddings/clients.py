"""From a provider and the parameters of a spec to its embedding model."""

from collections.abc import Mapping
from typing import Any

from stages.models import credentials
from stages.models.embeddings.answers import OpenAICompatibleEmbeddings
from stages.models.embeddings.bedrock import BedrockEmbeddings
from stages.models.embeddings.gemini import GeminiEmbeddings, VertexEmbeddings
from stages.models.embeddings.many_texts import ManyTextsModel
from stages.models.wires.clients import arguments_of
from stages.models.wires.signing import SignedAccess

EMBED = frozenset(("openai", "google_genai", "google_vertexai", "bedrock", "bedrock_converse"))


def embedder_of(
    provider: str, name: str, params: Mapping[str, Any], timeout_s: float, access: SignedAccess | None = None
) -> ManyTextsModel:
    """Return the embedding model of a provider that has a wire for it; `access`: where its requests are signed. Raises
    SpecError for a model that is none."""
    arguments = arguments_of(provider, name, params, timeout_s)
    if access is not None:
        arguments |= {"sign": access.sign, "base_url": access.base_url}
    match provider:
        case "openai":
            return OpenAICompatibleEmbeddings(**arguments)
        case "google_genai":
            return GeminiEmbeddings(**arguments)
        case "google_vertexai":
            return VertexEmbeddings(**arguments, place=credentials.google_cloud(params).path)
    return BedrockEmbeddings(**arguments)
