"""By which means a provider's model is asked for structured output."""

OUR_WIRES = frozenset(("openai", "offline"))


def structured_method(name: str) -> str:
    """How a provider is asked for a schema: `json_schema` (response_format) or `tool` (a forced tool call)."""
    return "json_schema" if name.partition(":")[0] in OUR_WIRES else "tool"
