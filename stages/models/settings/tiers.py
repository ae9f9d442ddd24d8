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

HAVE_JOBS = frozenset(("openai", "anthropic", "google_genai", "bedrock_converse"))
_HAVE_FLEX = frozenset(("openai", "google_genai"))
# Of OpenAI's models those without flex, by the pricing page; new ones have it.
_NO_FLEX = re.compile(r"gpt-3|gpt-4|gpt-5-chat|chatgpt|o1|o3-mini|.*-(audio|realtime|search|transcribe|tts)")
# Azure runs batch jobs on deployments of their own.
_AZURE = re.compile(r"\.(openai\.azure\.(com|us)|(cognitiveservices|services\.ai)\.azure\.com)(?=[:/]|\Z)")
_S3_PLACE = re.compile(r"s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[-!_*'().a-zA-Z0-9]+)*/?")  # as Bedrock takes it
_ROLE = re.compile(r"arn:aws[^:]*:iam::[0-9]{12}:role/.+")
_POOL = 16  # characters


def has_tier(name: str, tier: Tier, params: Mapping[str, Any]) -> bool:
    """True unless a model is known not to have a tier. `params`: of its calls; another address decides itself."""
    provider, _, model = name.partition(":")
    if tier == "batch":
        return provider in HAVE_JOBS and not lacks_place(provider, params)
    if tier == "flex":
        address = str(params.get("base_url") or credentials.base_url(provider))
        own = address == credentials.own_address(provider)
        return provider in _HAVE_FLEX and not (provider == "openai" and own and _NO_FLEX.match(model))
    return True


def _has(choice: ModelChoice, stage: StageSpec, tier: Tier) -> bool:
    """True unless a model is known not to have a tier in a stage: jobs take embeddings at OpenAI alone."""
    if tier == "batch" and stage.uses == "embed" and not choice.name.startswith("openai:"):
        return False
    return has_tier(choice.name, tier, {**stage.params, **choice.params})


def effective_tier(choice: ModelChoice, stage: StageSpec, limits: Limits, override: Tier | None = None) -> Tier:
    """Return the tier at which a model is asked. One that it has not counts as standard: where the spec allows that, or
    where it costs nothing; else `absent_tiers` has refused it."""
    tier = override or choice.tier
    return tier if _has(choice, stage, tier) else "standard"


def absent_tiers(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield a sentence and the next step for each model that has not the tier that it should be asked at."""
    if spec.limits.after_deadline == "standard":
        return
    for stage in spec.stages:
        for choice in stage.model.values():
            for member in chain(*members_of(choice)):
                if (absent := _absent(member, stage)) is not None:
                    why, next_step = absent
                    yield f"stage {stage.name}: tier: {member.tier}, and {why}.", next_step


def _absent(choice: ModelChoice, stage: StageSpec) -> tuple[str, str] | None:
    """Return why a model has not its tier, and the next step; None if it has."""
    params, provider = {**stage.params, **choice.params}, choice.name.partition(":")[0]
    batch = choice.tier == "batch"
    if batch and _lacks_deployment(choice, params):
        why = f"Azure runs batch jobs of {choice.name!r} on a deployment of their own"
        return why, "Name it: model: {name: …, tier: batch, batch_deployment: …}"
    if batch and stage.uses != "embed" and (lacks := lacks_place(provider, params)):
        why = f"batch jobs of {choice.name!r} need {lacks}"
        return why, "Set params: {batch_role: 'arn:aws:iam::…:role/…', batch_output: 's3://bucket/prefix'}"
    if provider == "offline" or _has(choice, stage, choice.tier):
        return None
    why = f"model {choice.name!r} has no {'batch jobs here' if batch else 'flex'}"
    if batch and provider == "bedrock":
        return why, "Name it bedrock_converse:…, by which Bedrock's batch jobs answer."
    return why, "Give it tier: standard, or set limits.after_deadline: standard to ask such models live."


def lacks_place(provider: str, params: Mapping[str, Any]) -> str:
    """Return what Bedrock's batch jobs need, and these parameters lack: the role that they run as, the place of their
    files; empty if nothing is."""
    if provider != "bedrock_converse":
        return ""
    if not (role := str(params.get("batch_role") or "")):
        return "params.batch_role, the ARN of the role that Bedrock runs them as"
    if not _ROLE.fullmatch(role):
        return f"the ARN of a role in params.batch_role, and {role!r} is none"
    if not (place := str(params.get("batch_output") or "")):
        return "params.batch_output, the place in S3 of their files"
    return "" if _S3_PLACE.fullmatch(place) else f"s3://bucket/prefix in params.batch_output, and {place!r} is none"


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
    if provider == "bedrock_converse":
        content += [str(params.get(name) or "") for name in ("region_name", "batch_role", "batch_output")]
    if names_in(stage.tools, "provider"):
        content.append("searches")  # by another API of OpenAI's, and a job has one
    return digest(orjson.dumps(content))[:_POOL]
