"""What a spec asks of a model that the model does not take: told before a run, from the table of facts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.spec.sections import ModelChoice, Spec
from schemas.spec.sections import Stage as StageSpec
from stages.limits.budget import cap_in
from stages.models import credentials
from stages.models.choice import members_of
from stages.models.wires.facts import Facts, facts_of, refused

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
        for choice in stage.model.values():
            for pool in members_of(choice):
                for complaint in _of_model(pool[0], stage):
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


def _is_own_address(provider: str, params: dict[str, Any]) -> bool:
    address = str(params.get("base_url") or credentials.base_url(provider))
    return address == credentials.own_address(provider)
