"""The method by which a provider's model gives structured output."""

OUR_WIRES = frozenset(("openai", "anthropic", "google_genai", "google_vertexai", "bedrock_converse", "offline"))


def structured_method(name: str) -> str:
    """Return the method for structured output: `json_schema` (response_format) or `tool` (a forced tool call)."""
    return "json_schema" if name.partition(":")[0] in OUR_WIRES else "tool"
