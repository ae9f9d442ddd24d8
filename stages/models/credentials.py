"""Environment variables of providers, for keys and addresses. Nothing else in `stages` reads the environment."""

import os

OPENAI = "https://api.openai.com/v1"
# provider → variables of which one must be set
_KEYS: dict[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google_genai": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
}


def variable(*names: str) -> tuple[str, str]:
    """Return the first variable that is set and not empty, and its value; two empty strings if there is none."""
    return next(((name, value) for name in names if (value := os.environ.get(name))), ("", ""))


def key_of(provider: str) -> tuple[str, str]:
    """Return the variable that holds a provider's key, and the key: empty if it is not set. The name is empty, too, if
    the provider's SDK finds its credentials elsewhere."""
    names = _KEYS.get(provider, ())
    found = variable(*names)
    return found if found[0] else (names[0] if names else "", "")


def openai_base_url() -> str:
    """Return the base URL of the endpoint for `openai:` models."""
    return variable("OPENAI_BASE_URL", "OPENAI_API_BASE")[1] or OPENAI


def missing_key(provider: str) -> str | None:
    """Return the variable that must be set before a provider can be called, or None."""
    name, key = key_of(provider)
    if not name or key or (provider == "openai" and openai_base_url() != OPENAI):
        return None  # a local server of the same protocol needs none
    return name
