"""Environment variables of providers, for keys and addresses. Nothing else in `stages` reads the environment."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Account:
    """Where a provider is called, and by which variables. `keys`: of which one must be set; `urls`: of another
    address; `own`: the provider's own one, empty if its SDK knows it."""

    keys: tuple[str, ...]
    urls: tuple[str, ...] = ()
    own: str = ""


ACCOUNTS = {
    "openai": Account(("OPENAI_API_KEY",), ("OPENAI_BASE_URL", "OPENAI_API_BASE"), OPENAI),
    "anthropic": Account(
        ("ANTHROPIC_API_KEY",), ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL"), "https://api.anthropic.com"
    ),
    "google_genai": Account(
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"), ("GOOGLE_GEMINI_BASE_URL",), "https://generativelanguage.googleapis.com"
    ),
    "google_vertexai": Account((), ("GOOGLE_VERTEX_BASE_URL",)),
}
_NONE = Account(())
# Of Vertex AI, as Google's SDK reads them.
_PROJECT, _LOCATION = "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"


def variable(*names: str) -> tuple[str, str]:
    """Return the first variable that is set and not empty, and its value; two empty strings if there is none."""
    return next(((name, value) for name in names if (value := os.environ.get(name))), ("", ""))


def values_in(texts: Iterable[str]) -> list[str]:
    """Return the values of variables that stand in these texts, but for paths and what is too short for a secret."""
    long = {value for value in os.environ.values() if len(value) >= 8 and not value.startswith("/")}
    joined = "\n".join(texts)
    return [value for value in long if value in joined]


def key_of(provider: str) -> tuple[str, str]:
    """Return the variable that holds a provider's key, and the key: empty if it is not set. The name is empty, too, if
    the provider's SDK finds its credentials elsewhere."""
    names = ACCOUNTS.get(provider, _NONE).keys
    found = variable(*names)
    return found if found[0] else (names[0] if names else "", "")


def base_url(provider: str) -> str:
    """Return the base URL of a provider's models, empty if only its SDK knows it."""
    account = ACCOUNTS.get(provider, _NONE)
    return variable(*account.urls)[1] or account.own


def own_address(provider: str) -> str:
    return ACCOUNTS.get(provider, _NONE).own


@dataclass(frozen=True)
class GoogleCloud:
    """Where a model on Vertex AI is called: in a project and a location, each empty if it is not set; or by an API key
    alone, in express mode."""

    project: str
    location: str
    api_key: str = ""

    @property
    def path(self) -> str:
        """The beginning of the path of a model, empty in express mode."""
        return "" if self.api_key else f"projects/{self.project}/locations/{self.location}/"


def google_cloud(params: Mapping[str, Any]) -> GoogleCloud:
    """Return where a model on Vertex AI with these parameters is called: as they say, else as the environment does; a
    project goes before a key of the same place."""
    place = GoogleCloud(str(params.get("project") or ""), str(params.get("location") or ""))
    if params.get("api_key") and not (place.project or place.location):
        return GoogleCloud("", "", str(params["api_key"]))
    found = GoogleCloud(place.project or variable(_PROJECT)[1], place.location or variable(_LOCATION)[1])
    key = key_of("google_genai")[1]
    return GoogleCloud("", "", key) if key and not (found.project or found.location) else found


def google_version(usual: str, beta: str) -> str:
    """Return the version of Google's API in paths: `usual`, if GOOGLE_GENAI_API_VERSION does not name another, in which
    `beta` has a number of its own."""
    named = variable("GOOGLE_GENAI_API_VERSION")[1]
    return beta if named == "beta" else named or usual


def openai_base_url() -> str:
    """Return the base URL of the endpoint for `openai:` models."""
    return base_url("openai")


def missing_key(provider: str) -> str | None:
    """Return the variable that must be set before a provider can be called, or None."""
    name, key = key_of(provider)
    if not name or key or base_url(provider) != own_address(provider):
        return None  # a server of your own with the same protocol needs none
    return name
