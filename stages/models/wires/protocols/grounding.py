"""Gemini's web search in its answers: how often, and the sources that they name. No I/O."""

from collections.abc import Mapping
from typing import Any

from stages.models.wires.facts import facts_of
from stages.models.wires.protocols.search import citation, search_metadata


def searched(grounding: Any, model: str) -> dict[str, Any]:
    """Return what the metadata of a grounded answer tells: its sources with the texts that they support, and how many
    searches are billed: each query, or of older models each answer that was grounded."""
    if not isinstance(grounding, Mapping):
        return {}
    queries = len(grounding.get("webSearchQueries") or ())
    if facts_of("google_genai", model).web_search == "prompt":
        queries = min(queries, 1)
    chunks = [chunk.get("web") or {} for chunk in grounding.get("groundingChunks") or ()]
    sources = [
        citation(chunks[index]["uri"], chunks[index].get("title"), (support.get("segment") or {}).get("text"))
        for support in grounding.get("groundingSupports") or ()
        for index in support.get("groundingChunkIndices") or ()
        if 0 <= index < len(chunks) and chunks[index].get("uri")
    ]
    named = {source["url"] for source in sources}
    sources += [citation(chunk["uri"], chunk.get("title"), None) for chunk in chunks
                if chunk.get("uri") and chunk["uri"] not in named]  # fmt: skip
    return search_metadata(queries, sources)
