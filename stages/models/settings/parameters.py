"""What a spec asks of a model that the model does not take: told before a run, from the table of facts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import SpecError
from schemas.spec.sections import ModelChoice, Spec
from schemas.spec.sections import Stage as StageSpec
from schemas.spec.tools import names_in
from stages.limits.budget import DEFAULT_CAP, cap_in
from stages.models import credentials
from stages.models.settings.choice import members_of
from stages.models.wires.facts import Facts, facts_of, refused, room_to_think
from stages.models.wires.schema_limits import unexpressible

GIVE_LOGPROBS = frozenset(("openai", "google_genai", "google_vertexai"))
_ROOM_S = 1_024  # tokens: the least that a model can be told to think


@dataclass(frozen=True)
class Complaint:
    """A sentence about a parameter, and the next step. `refused`: by the provider itself, at its own address; else it
    is left out, or another server decides."""

    message: str
    hint: str
    refused: bool


def complaints(spec: Spec) -> Iterator[Complaint]:
    """Yield what the stages ask of their models in vain, each once."""
    seen = set()
    for stage in spec.stages:
        for role, choice in stage.model.items():
            for pool in members_of(choice):
                for complaint in (*_of_model(pool[0], stage), *_of_logprobs(pool[0], stage, role)):
                    if complaint not in seen:
                        seen.add(complaint)
                        yield complaint


def _of_model(choice: ModelChoice, stage: StageSpec) -> Iterator[Complaint]:
    provider, _, name = choice.name.partition(":")
    params = {**stage.params, **choice.params}
    facts, where = facts_of(provider, name), f"stage {stage.name}: model {choice.name!r}"
    own = _is_own_address(provider, params)
    for parameter in refused(facts, params):
        message = f"{where} takes no {parameter} = {params[parameter]!r}."
        yield Complaint(message, f"Take {parameter} out of params.", own)
    yield from _of_effort(where, facts, params, own)
    if facts.verbosity is False and params.get("verbosity") is not None:
        yield Complaint(f"{where} knows no verbosity.", "Take it out, or say it in the prompt.",
                        own and provider == "openai")  # fmt: skip
    cap = cap_in(params)
    if cap is not None and facts.cap is not None and cap > facts.cap:
        yield Complaint(
            f"{where} answers with {facts.cap:,} tokens at most, and max_tokens is {cap:,}.",
            f"Set max_tokens: {facts.cap}, or less.",
            own,
        )


def _of_logprobs(choice: ModelChoice, stage: StageSpec, role: str) -> Iterator[Complaint]:
    confidence, asked = stage.options.get("confidence"), "cheap" if stage.uses == "cascade" else "main"
    wanted = isinstance(confidence, dict) and confidence.get("from") == "logprobs" and role == asked
    if wanted and not gives_logprobs(choice, stage, anywhere=True):
        yield Complaint(
            f"stage {stage.name}: model {choice.name!r} gives no log-probabilities, which with.confidence comes from.",
            "Take from: answer with a float output, or another model.",
            _is_own_address(choice.name.partition(":")[0], {**stage.params, **choice.params}),
        )


def gives_logprobs(choice: ModelChoice, stage: StageSpec, *, anywhere: bool = False) -> bool:
    """True if a model may be asked for log-probabilities: by Chat Completions or by Gemini's protocol, and it does not
    refuse them. At another address the server decides, unless this is about the model `anywhere`."""
    provider, _, name = choice.name.partition(":")
    params = {**stage.params, **choice.params}
    facts, own = facts_of(provider, name), _is_own_address(provider, params)
    if provider not in GIVE_LOGPROBS or params.get("api") == "responses":
        return False
    by_responses = (own and facts.responses and "api" not in params) or bool(names_in(stage.tools, "provider"))
    if provider == "openai" and by_responses:
        return False
    return not ((own or anywhere) and refused(facts, {**params, "logprobs": True}))


def _of_effort(where: str, facts: Facts, params: dict[str, Any], own: bool) -> Iterator[Complaint]:
    effort, cap = params.get("reasoning_effort"), cap_in(params)
    if effort is None:
        return
    if facts.thinking == "none":
        if effort != "none":
            yield Complaint(f"{where} does not reason, and reasoning.effort is {effort!r}.", "Take it out.", own)
    elif facts.thinking in ("effort", "adaptive", "level") and facts.efforts and effort not in facts.efforts:
        known = ", ".join(facts.efforts)
        yield Complaint(f"{where} knows no reasoning.effort {effort!r}.", f"It knows {known}.", own)
    elif facts.thinking == "budget" and cap is not None and effort != "none" and cap < 2 * _ROOM_S:
        yield Complaint(
            f"{where} has no room to reason: its thoughts count against max_tokens, which is {cap:,}.",
            f"Set max_tokens: {2 * _ROOM_S} or more.",
            False,
        )


def refuse_schema(choice: ModelChoice, stage: StageSpec, schema: Mapping[str, Any]) -> None:
    """Raises SpecError for a declared output that a model's provider cannot express, at the provider's own address."""
    for pool in members_of(choice):
        provider = pool[0].name.partition(":")[0]
        found = unexpressible(provider, schema)
        if found is not None and _is_own_address(provider, {**stage.params, **pool[0].params}):
            raise SpecError(
                f"stage {stage.name}: the schema of the output {found} (model {pool[0].name!r}).",
                hint="Declare a smaller output, or divide it among several stages.",
            )


def default_cap(choice: ModelChoice, stage_params: Mapping[str, Any]) -> int:
    """Return the cap of an answer where a budget needs one and the spec sets none: with room for what the model thinks,
    and no more than the model can write."""
    provider, _, name = choice.name.partition(":")
    params = {**stage_params, **choice.params}
    room = params.get("thinking_budget") or room_to_think(provider, name, params.get("reasoning_effort"))
    most = facts_of(provider, name).cap
    cap = DEFAULT_CAP + max(0, int(room))
    return cap if most is None else min(cap, most)


def _is_own_address(provider: str, params: dict[str, Any]) -> bool:
    address = str(params.get("base_url") or credentials.base_url(provider))
    return address == credentials.own_address(provider)
