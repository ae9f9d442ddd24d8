"""Tools that providers run: which models have them, checked before a run."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import SpecError
from schemas.spec.sections import ModelChoice
from schemas.spec.sections import Stage as StageSpec
from schemas.spec.tools import kind_of
from stages.models import credentials
from stages.models.settings.choice import members_of
from stages.models.wires.clients import CHAT_ONLY
from stages.models.wires.facts import facts_of

_HAVE_SEARCH = ("openai", "anthropic", "google_genai", "google_vertexai")


def refuse_absent_tools(choice: ModelChoice, stage: StageSpec) -> None:
    """Raises SpecError for a model of a role that cannot take the tools of its stage that providers run."""
    for tool in stage.tools:
        if kind_of(tool) != "provider":
            continue
        for member in chain(*members_of(choice)):
            for why, hint in _faults(member, stage):
                raise SpecError(f"stage {stage.name}: tools: {tool}: model {member.name!r} {why}.", hint=hint)


def _faults(choice: ModelChoice, stage: StageSpec) -> Iterator[tuple[str, str]]:
    provider, _, name = choice.name.partition(":")
    params = {**stage.params, **choice.params}
    own = _is_own_address(provider, params)
    if provider not in _HAVE_SEARCH:
        known = ", ".join(f"{known}:" for known in _HAVE_SEARCH)
        yield "has no web search of its provider", f"Take a model of {known}, or a function of yours in uses: agent."
    if own and facts_of(provider, name).web_search == "none":
        yield "has no web search of its provider", "Take a newer model."
    if provider == "openai":
        yield from _by_chat_completions(params, own)
    if provider in ("google_genai", "google_vertexai") and any(kind_of(tool) != "provider" for tool in stage.tools):
        yield (
            "takes no functions beside its web search",
            "Search in one stage, and call functions in another; or take a model of openai: or anthropic:.",
        )


def _by_chat_completions(params: Mapping[str, Any], own: bool) -> Iterator[tuple[str, str]]:
    api = params.get("api", "responses" if own else "")
    if api != "responses":
        address = urlsplit(str(params.get("base_url") or credentials.base_url("openai"))).netloc.rpartition("@")[2]
        where = f"is called by its {api} API" if api else f"is at {address}"
        yield (
            f"{where}, and OpenAI searches by its Responses API",
            "Set params: {api: responses}, if the server has it.",
        )
    if stray := sorted(CHAT_ONLY & params.keys()):
        yield (
            f"is searching by the Responses API, which takes no {stray[0]}",
            f"Take {stray[0]} out of params.",
        )
    if params.get("reasoning_effort") == "minimal":
        yield "does not search with reasoning: {effort: minimal}", "Take effort: low, or another."


def _is_own_address(provider: str, params: Mapping[str, Any]) -> bool:
    return str(params.get("base_url") or credentials.base_url(provider)) == credentials.own_address(provider)
