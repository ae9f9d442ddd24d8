"""Build chat models from `provider:name`, with journalled and limited calls. Provider SDKs' own retries are off."""

from collections.abc import Mapping
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import SpecError
from schemas.spec.sections import ModelChoice, Spec
from schemas.spec.sections import Stage as StageSpec
from schemas.spec.tools import names_in
from stages.limits.budget import MOST_SEARCHES, cap_in, capper
from stages.limits.prices import pricer
from stages.models import credentials, flex
from stages.models.answers.method import OUR_WIRES
from stages.models.backend import Backend
from stages.models.calls import journalled
from stages.models.chat_model import AnyChatModel
from stages.models.settings.choice import (
    ModelServices,
    credential_of,
    identities,
    limiter_of,
    members_of,
    model_identity,
)
from stages.models.settings.parameters import default_cap
from stages.models.settings.tiers import effective_tier, pool_of

# provider → the extra that installs it
_EXTRAS = {
    "openai": "openai", "anthropic": "anthropic", "google_genai": "google", "bedrock": "bedrock",
    "bedrock_converse": "bedrock", "google_vertexai": "google", "ollama": "ollama",
}  # fmt: skip


def build_model(choice: ModelChoice, stage: StageSpec, spec: Spec, services: ModelServices) -> AnyChatModel:
    """Build the model of a role, which may be several. Raises SpecError if a provider's package is missing or refuses
    the parameters."""
    pools = [[_build_one(member, stage, spec, services) for member in pool] for pool in members_of(choice)]
    if len(pools) == len(pools[0]) == 1:
        return pools[0][0]
    from stages.models.fallback import FallbackChatModel

    after_s = choice.fallback_after.total_seconds()
    return FallbackChatModel(pools=pools, after_s=after_s, on=frozenset(choice.fallback_on))


def _build_one(choice: ModelChoice, stage: StageSpec, spec: Spec, services: ModelServices) -> AnyChatModel:
    params, timeout_s = _params(choice, stage, spec)
    if choice.batch_deployment is not None:
        params["batch_deployment"] = choice.batch_deployment
    paid = _how_paid(choice, stage, spec, services)
    if paid["flex"] is not None:
        timeout_s = max(timeout_s, flex.TIMEOUT_S)
    searches = bool(names_in(stage.tools, "provider"))
    provider, _, name = choice.name.partition(":")
    if provider == "offline":
        from stages.models.offline.model import OfflineChatModel

        model: AnyChatModel = OfflineChatModel(model=name, latency_ms=int(params.get("latency_ms", 0)))
    elif provider in OUR_WIRES:
        from stages.models.wires.clients import client_of

        access = services.access(provider, params)
        model = client_of(provider, name, params, timeout_s, access, cache=stage.cache == "on", searches=searches)
    else:
        model = _foreign(choice.name, stage.name, params, timeout_s)
    cap = cap_in({**params, **params.get("extra_body", {})})
    backend = Backend(
        name=choice.name,
        **identities(choice, stage.params),
        endpoint=_endpoint(provider, params),
        setting=credential_of(provider, params)[0],
        limiter=limiter_of(choice, stage, spec, services),
        price=pricer(choice.name, spec.prices),
        timeout_s=timeout_s,
        no_calls=services.no_calls,
        cap=cap,
        default_cap=default_cap(choice, stage.params),
        caching=getattr(model, "caching", None),
        searches=int(params.get("max_tool_calls") or MOST_SEARCHES),
        capped=None if cap is not None else (lambda cap: model) if provider == "offline" else capper(model),
        **paid,
    )
    return journalled(model, backend)


def model_of_pool(spec: Spec, pool: str, services: ModelServices) -> AnyChatModel | None:
    """Build the model whose calls the batch jobs of a pool hold, journalled as a stage's; None if the spec has none."""
    for stage in spec.stages:
        for choice in stage.model.values():
            for member in chain(*members_of(choice)):
                if pool_of(member, stage) == pool:
                    build = build_embedder if stage.uses == "embed" else _build_one
                    return build(member, stage, spec, services)
    return None


def build_embedder(choice: ModelChoice, stage: StageSpec, spec: Spec, services: ModelServices) -> AnyChatModel:
    """Build the embedding model of a role. It is called like a chat model, so that its vectors are journalled, limited
    and paid for in the same way. Raises SpecError."""
    from stages.models.embeddings.answers import ForeignEmbeddings
    from stages.models.embeddings.clients import EMBED, embedder_of
    from stages.models.offline.embeddings import OfflineEmbeddings

    if choice.others or len(choice.endpoints) > 1:
        raise SpecError(f"stage {stage.name}: uses: embed takes one model, at one endpoint: vectors must be alike.")
    ((choice,),) = members_of(choice)
    params, timeout_s = _params(choice, stage, spec)
    provider, _, name = choice.name.partition(":")
    if provider == "offline":
        model: AnyChatModel = OfflineEmbeddings(model=name, dimensions=int(params.get("dimensions", 64)))
    elif provider in EMBED:
        model = embedder_of(provider, name, params, timeout_s, services.access(provider, params))
    else:
        model = ForeignEmbeddings(embeddings=_foreign_embeddings(choice.name, stage.name, params))
    backend = Backend(
        name=choice.name,
        identity=b"embeddings " + model_identity(choice, stage.params),
        setting=credential_of(provider, params)[0],
        limiter=limiter_of(choice, stage, spec, services),
        price=pricer(choice.name, spec.prices),
        timeout_s=timeout_s,
        no_calls=services.no_calls,
        shown=identities(choice, stage.params)["shown"],
        cap=1,  # a vector is no text: nothing of it is paid for
        **_how_paid(choice, stage, spec, services),
    )
    return journalled(model, backend)


def _params(choice: ModelChoice, stage: StageSpec, spec: Spec) -> tuple[dict[str, Any], float]:
    """Return the parameters of a model's calls, and their timeout in seconds."""
    params = {**stage.params, **choice.params}
    timeout = params.pop("timeout", params.pop("request_timeout", None))
    params.pop("max_retries", None)  # one layer retries: stages.models.calls
    return params, float(timeout if timeout is not None else spec.limits.call_timeout.total_seconds())


def _how_paid(choice: ModelChoice, stage: StageSpec, spec: Spec, services: ModelServices) -> dict[str, Any]:
    """Return the tier of a model's calls, and what else a backend has of it."""
    tier = effective_tier(choice, stage, spec.limits, services.tier)
    pool = pool_of(choice, stage) if tier == "batch" else ""
    room = flex.Flex(spec.limits.flex_patience.total_seconds()) if tier == "flex" else None
    return {"tier": tier, "pool": pool, "flex": room}


def _endpoint(provider: str, params: Mapping[str, Any]) -> str:
    """Return the host and port of a base URL that is not the provider's own; without credentials, which a URL may
    hold."""
    url = str(params.get("base_url") or credentials.base_url(provider))
    return urlsplit(url).netloc.rpartition("@")[2] if url and url != credentials.own_address(provider) else ""


def _foreign(name: str, stage: str, params: dict[str, Any], timeout_s: float) -> AnyChatModel:
    from langchain.chat_models import init_chat_model

    try:
        model: AnyChatModel = init_chat_model(name, **params, max_retries=0, timeout=timeout_s)
    except (ImportError, ValueError) as exc:
        raise _not_built(name, stage, exc) from exc
    return model


def _foreign_embeddings(name: str, stage: str, params: dict[str, Any]) -> Any:
    from langchain.embeddings import init_embeddings

    try:
        return init_embeddings(name, **params)
    except (ImportError, ValueError) as exc:
        raise _not_built(name, stage, exc) from exc


def _not_built(name: str, stage: str, exc: Exception) -> SpecError:
    if isinstance(exc, ImportError):
        extra = _EXTRAS.get(name.partition(":")[0], "")
        hint = f"pip install 'tandem-pipeline[{extra}]'" if extra else "Install the LangChain package of that provider."
        return SpecError(f"stage {stage}: model {name!r} needs a package that is not installed.", hint=hint)
    return SpecError(f"stage {stage}: model {name!r}: {exc}", hint="Write provider:name.")
