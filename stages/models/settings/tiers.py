"""Which models have which price tiers, and the pool of a model: the account whose batch jobs may hold its calls."""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import orjson

from schemas.digests import digest
from schemas.spec.sections import Limits, ModelChoice, Spec
from schemas.spec.sections import Stage as StageSpec
from schemas.spec.tools import names_in
from schemas.tier import Tier
from stages.models import credentials
from stages.models.settings.choice import credential_of, members_of

HAVE_JOBS = frozenset(("openai", "anthropic", "google_genai"))
_HAVE_FLEX = frozenset(("openai", "google_genai"))
# Of OpenAI's models those without flex, by the pricing page; new ones have it.
_NO_FLEX = re.compile(r"gpt-3|gpt-4|gpt-5-chat|chatgpt|o1|o3-mini|.*-(audio|realtime|search|transcribe|tts)")
# Azure runs batch jobs on deployments of their own.
_AZURE = re.compile(r"\.(openai\.azure\.(com|us)|(cognitiveservices|services\.ai)\.azure\.com)(?=[:/]|\Z)")
_POOL = 16  # characters


def has_tier(name: str, tier: Tier, params: Mapping[str, Any]) -> bool:
    """True unless a model is known not to have a tier. `params`: of its calls; another address decides itself."""
    provider, _, model = name.partition(":")
    if tier == "batch":
        return provider in HAVE_JOBS
    if tier == "flex":
        address = str(params.get("base_url") or credentials.base_url(provider))
        own = address == credentials.own_address(provider)
        return provider in _HAVE_FLEX and not (provider == "openai" and own and _NO_FLEX.match(model))
    return True


def effective_tier(choice: ModelChoice, stage: StageSpec, limits: Limits, override: Tier | None = None) -> Tier:
    """Return the tier at which a model is asked. One that it has not counts as standard: where the spec allows that, or
    where it costs nothing; else `absent_tiers` has refused it."""
    tier = override or choice.tier
    return tier if has_tier(choice.name, tier, {**stage.params, **choice.params}) else "standard"


def absent_tiers(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield a sentence and the next step for each model that has not the tier that it should be asked at."""
    if spec.limits.after_deadline == "standard":
        return
    for stage in spec.stages:
        for choice in stage.model.values():
            for member in chain(*members_of(choice)):
                params = {**stage.params, **member.params}
                if member.tier == "batch" and _lacks_deployment(member, params):
                    yield (
                        f"stage {stage.name}: tier: batch, and Azure runs batch jobs of {member.name!r} on "
                        "a deployment of their own.",
                        "Name it: model: {name: …, tier: batch, batch_deployment: …}",
                    )
                if member.name.startswith("offline:") or has_tier(member.name, member.tier, params):
                    continue
                what = "batch jobs here" if member.tier == "batch" else "flex"
                yield (
                    f"stage {stage.name}: tier: {member.tier}, and model {member.name!r} has no {what}.",
                    "Give it tier: standard, or set limits.after_deadline: standard to ask such models live.",
                )


def _lacks_deployment(choice: ModelChoice, params: Mapping[str, Any]) -> bool:
    address = str(params.get("base_url") or credentials.base_url(choice.name.partition(":")[0]))
    named = choice.batch_deployment or params.get("batch_deployment")
    return choice.name.startswith("openai:") and not named and _AZURE.search(address) is not None


def pool_of(choice: ModelChoice, stage: StageSpec) -> str:
    """Return the pool of a model: 16 hex characters of provider, address, name and the account as the spec names it,
    never of a key: keys rotate while a job is out."""
    params = {**stage.params, **choice.params}
    provider, _, name = choice.name.partition(":")
    address = str(params.get("base_url") or credentials.base_url(provider))
    account, _ = credential_of(provider, params)
    content = [provider, address, choice.batch_deployment or params.get("batch_deployment") or name, account]
    if names_in(stage.tools, "provider"):
        content.append("searches")  # by another API of OpenAI's, and a job has one
    return digest(orjson.dumps(content))[:_POOL]
