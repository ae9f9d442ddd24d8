"""Names of models: `provider:name`, and the names that people give a provider."""

import re

# As people write them → as LangChain's `init_chat_model` does, by which all else here names them.
_ALIASES = {
    "google": "google_genai", "gemini": "google_genai", "claude": "anthropic", "vertex": "google_vertexai",
    "vertexai": "google_vertexai", "azure": "azure_openai", "mistral": "mistralai",
}  # fmt: skip


def model_name(value: str) -> str:
    """Return `provider:name` with the provider's one name. Raises ValueError for anything else."""
    provider, separator, name = value.partition(":")
    if not separator or not name or not re.fullmatch(r"[a-z][a-z0-9_]*", provider):
        raise ValueError("not provider:name; for example openai:gpt-5-mini, or offline:lexical for no provider")
    return with_one_name(value)


def with_one_name(value: str) -> str:
    """Return a name with the provider's one name; any other text as it is."""
    provider, separator, name = value.partition(":")
    return f"{_ALIASES.get(provider, provider)}{separator}{name}"
