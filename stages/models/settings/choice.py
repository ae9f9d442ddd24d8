"""The chosen model of a role before it is built: its identity, its key and its limiter. Needs no provider's SDK."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import orjson

from schemas.ids import limit_key
from schemas.spec.sections import Endpoint, ModelChoice, Spec
from schemas.spec.sections import Stage as StageSpec
from schemas.tier import Tier
from stages.limits.budget import cap_in, with_plain_cap, without_cap
from stages.limits.limiter import DEFAULT_OUTPUT, Limiter, Limiters, Rates
from stages.models import credentials
from stages.models.wires.signing import SignedAccess

_WORD = re.compile(r"[a-z_]{1,16}")
# Parameters of the connection, which change nothing of what is answered.
_CONNECTION = frozenset(
    (
        "timeout",
        "request_timeout",
        "max_retries",
        "headers",
        "default_headers",
        "api_key",
        "latency_ms",
        "api",
        "batch_deployment",
        "batch_role",
        "batch_output",
    )
)

# Parameters that say how a request is sent, cached and paid for. None of them changes what a good answer is.
HOW = frozenset((
    "stream", "stream_options", "service_tier", "prompt_cache_key", "prompt_cache_retention", "store", "metadata",
    "user", "safety_identifier", "extra_headers", "citations", "project", "location",
))  # fmt: skip
_BEDROCK = ("bedrock", "bedrock_converse")  # LangChain's two classes
Access = Callable[[Mapping[str, Any]], SignedAccess]


@dataclass
class ModelServices:
    """Services that the models of a process share. `bedrock`, `vertex`: give access to these clouds for a model's
    parameters; `tier`: of all models, None for that of each in the spec."""

    limiters: Limiters = field(default_factory=Limiters)
    no_calls: bool = False  # only known answers are used
    tier: Tier | None = None
    bedrock: Access | None = None
    vertex: Access | None = None

    def access(self, provider: str, params: Mapping[str, Any]) -> SignedAccess | None:
        """Return the access to a model on a cloud; None for any other. Raises SpecError."""
        give = self.bedrock if provider in _BEDROCK else self.vertex if provider == "google_vertexai" else None
        return None if give is None else give(params)

    def apart(self, *, no_calls: bool = False, tier: Tier | None = None) -> "ModelServices":
        """Return the services for one job, so that its limits can be changed while it runs."""
        return replace(self, limiters=self.limiters.apart(), no_calls=no_calls, tier=tier)


def missing_key(name: str) -> str | None:
    """Return the variable that must be set before `name` can be called, or None."""
    return credentials.missing_key(name.partition(":")[0])


def members_of(choice: ModelChoice) -> list[list[ModelChoice]]:
    """Return the models of a role in their order, each as a pool: one choice for each of its endpoints."""
    pools = []
    for model in (choice, *choice.others):
        plain = model.model_copy(update={"endpoints": [], "others": []})
        pools.append([_at(plain, endpoint) for endpoint in model.endpoints] or [plain])
    return pools


def models_of(stage: StageSpec) -> list[ModelChoice]:
    """Return all models that a stage may ask, each once, in the order of its roles."""
    found = {one.name: one for choice in stage.model.values() for one in (choice, *choice.others)}
    return list(found.values())


def _at(choice: ModelChoice, endpoint: Endpoint) -> ModelChoice:
    key = {} if endpoint.api_key is None else {"api_key": endpoint.api_key}
    return choice.model_copy(update={"params": {**choice.params, "base_url": endpoint.url, **key}})


def model_identity(
    choice: ModelChoice, stage_params: dict[str, Any], *, capped: bool = True, how: bool = True
) -> bytes:
    """Return everything that the answers of a model depend on, canonically: provider, name, base URL, parameters; of
    several models the first, at its first endpoint. Without the cap of answers, if not `capped`; without `how`, not
    those that only say how a request is sent."""
    choice = members_of(choice)[0][0]
    params = {k: v for k, v in {**stage_params, **choice.params}.items() if k not in _CONNECTION}
    if not how:
        params = with_plain_cap({k: v for k, v in params.items() if k not in HOW})
    if not capped:
        params = without_cap(params)
    if choice.name.startswith("openai:"):
        params.setdefault("base_url", credentials.openai_base_url())
    return orjson.dumps([choice.name, params], option=orjson.OPT_SORT_KEYS, default=str)


def identities(choice: ModelChoice, stage_params: dict[str, Any]) -> dict[str, Any]:
    """Return the identities that a backend has of a model: see `stages.models.backend`."""
    free, capped = (model_identity(choice, stage_params, capped=cap, how=False) for cap in (False, True))
    older = model_identity(choice, stage_params, capped=False), model_identity(choice, stage_params)
    params = {name: value for name, value in {**stage_params, **choice.params}.items()
              if name not in _CONNECTION and _is_plain(value)}  # fmt: skip
    return {
        "identity": free,
        "capped_identity": capped,
        "older": None if older == (free, capped) else older,
        "shown": orjson.dumps({"name": choice.name, "params": params}, option=orjson.OPT_SORT_KEYS),
    }


def _is_plain(value: object) -> bool:
    """True for a parameter that can hold no secret: a number, a switch, a word such as `low`."""
    if isinstance(value, dict):
        return all(_is_plain(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_is_plain(inner) for inner in value)
    return value is None or isinstance(value, int | float) or bool(isinstance(value, str) and _WORD.fullmatch(value))


def limiter_of(choice: ModelChoice, stage: StageSpec, spec: Spec, services: ModelServices) -> Limiter:
    """Return the limiter of a model, of several the first: one for all calls with one credential at one address."""
    choice = members_of(choice)[0][0]
    params = {**stage.params, **choice.params}
    provider = choice.name.partition(":")[0]
    _, credential = credential_of(provider, params)
    address = str(params.get("base_url") or credentials.base_url(provider))
    if provider != "openai" and address == credentials.own_address(provider):
        address = _cloud_place(provider, params)  # empty, as workers of earlier versions share the limit
    limits = spec.limits
    return services.limiters.of(
        limit_key(choice.name, address, credential),
        limits.rows_in_flight,
        Rates(float(limits.requests_per_minute or inf), float(limits.tokens_per_minute or inf)),
        output_cap=cap_in({**params, **params.get("extra_body", {})}) or DEFAULT_OUTPUT,
        gauge=f"{spec.name}/{stage.name}",
        ramps=provider != "offline",
    )


def _cloud_place(provider: str, params: Mapping[str, Any]) -> str:
    """Return the place in a cloud that has limits of its own, as far as a spec names it."""
    if provider == "google_vertexai":
        return credentials.google_cloud(params).path
    return str(params.get("region_name") or "") if provider in _BEDROCK else ""


def credential_of(provider: str, params: dict[str, Any]) -> tuple[str, str]:
    """Return the setting that holds the provider's credential, and the credential."""
    if "api_key" in params:
        return "params.api_key", str(params["api_key"])
    name, key = credentials.key_of(provider)
    return name or "the provider's credentials", key
