"""From a provider and the parameters of a spec to its client."""

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from stages.models import credentials
from stages.models.wires.facts import Caching, caching_of, facts_of
from stages.models.wires.protocols.anthropic import AnthropicMessages
from stages.models.wires.protocols.converse import BedrockConverse
from stages.models.wires.protocols.gemini import GeminiGenerate, VertexGenerate
from stages.models.wires.protocols.openai_chat import OpenAIChat
from stages.models.wires.protocols.openai_responses import OpenAIResponses
from stages.models.wires.protocols.wire import Wire
from stages.models.wires.signing import SignedAccess
from stages.models.wires.transport import ProviderChatModel

_WIRES: dict[str, Wire] = {
    "openai": OpenAIChat(), "anthropic": AnthropicMessages(),
    "bedrock_converse": BedrockConverse(), "bedrock": BedrockConverse(),
}  # fmt: skip
_RESPONSES = OpenAIResponses()
CHAT_ONLY = frozenset((
    "seed", "stop", "n", "logit_bias", "presence_penalty", "frequency_penalty", "logprobs", "prediction", "modalities",
    "audio",
))  # fmt: skip
# Names that parameters had in LangChain's classes, by which these providers were called before.
_RENAMED = {
    "anthropic_api_key": "api_key", "google_api_key": "api_key", "gemini_api_key": "api_key",
    "anthropic_api_url": "base_url", "stop_sequences": "stop", "additional_headers": "headers",
    "endpoint_url": "base_url", "guardrail_config": "guardrails",
}  # fmt: skip
# What was theirs alone, and never part of a request.
_LANGCHAIN = frozenset((
    "streaming", "stream_usage", "disable_streaming", "cache", "rate_limiter", "tags", "verbose", "callbacks", "name",
    "profile", "output_version", "transport", "model_kwargs", "anthropic_proxy", "include_response_headers",
    "region_name", "credentials_profile_name", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
    "config", "provider", "base_model", "supports_tool_choice_values", "project", "location", "credentials",
    "api_endpoint", "api_transport", "request_parallelism", "endpoint_version", "full_model_name",
))  # fmt: skip


def client_of(
    provider: str,
    name: str,
    params: Mapping[str, Any],
    timeout_s: float,
    access: SignedAccess | None = None,
    *,
    cache: bool = True,
    searches: bool = False,
) -> ProviderChatModel:
    """Return the chat model of a provider that has a wire; `access`: where its requests are signed; `cache`: it may
    cache prompts; `searches`: it has its provider search the web, which OpenAI does by the Responses API alone."""
    arguments = arguments_of(provider, name, {"api": "responses", **params} if searches else params, timeout_s)
    caching = _caching(provider, name, arguments["base_url"])
    if arguments["base_url"] == credentials.own_address(provider):
        arguments["facts"] = facts_of(provider, name)
    if access is not None:
        arguments |= {"sign": access.sign, "base_url": access.base_url}
    return ProviderChatModel(**arguments, caching=caching if cache or caching is None else caching.never)


def _caching(provider: str, name: str, base_url: str) -> Caching | None:
    """Return how a provider caches prompts. What other servers do that speak OpenAI's protocol is not known."""
    return None if provider == "openai" and base_url != credentials.OPENAI else caching_of(provider, name)


def arguments_of(provider: str, name: str, params: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return the arguments of a provider's client: what is of the connection, and the parameters of requests."""
    sent = dict(params) if provider == "openai" else _as_ours(params)
    base_url = str(sent.pop("base_url", None) or credentials.base_url(provider))
    headers = {**sent.pop("headers", {}), **sent.pop("default_headers", {})}
    if betas := sent.pop("betas", None):
        headers.setdefault("anthropic-beta", ",".join(betas))
    extra = sent.pop("extra_body", {})
    if base_url == credentials.OPENAI and "max_tokens" in sent:
        sent["max_completion_tokens"] = sent.pop("max_tokens")  # see ProviderChatModel.cap_name
    api = sent.pop("api", None)
    of_jobs = {name: str(sent.pop(name, None) or "") for name in ("batch_deployment", "batch_role", "batch_output")}
    chat_only = not CHAT_ONLY.isdisjoint([*sent, *extra])
    by_responses = provider == "openai" and _by_responses(name, base_url, api, chat_only)
    if provider == "google_vertexai":
        wire: Wire = VertexGenerate(place=credentials.google_cloud(params).path)
    elif provider == "google_genai":
        wire = GeminiGenerate(credentials.google_version("v1", "v1beta"))
    else:
        wire = _RESPONSES if by_responses else _WIRES[provider]
    setting, found = credentials.key_of(provider)
    key = sent.pop("api_key", None) or found
    return {
        "model": name,
        "wire": wire,
        "base_url": base_url,
        "api_key": SecretStr(key) if key else None,
        "setting": setting or "the provider's credentials",
        **of_jobs,
        "timeout_s": timeout_s,
        "headers": headers,
        "params": {**sent, **extra},
    }


def _by_responses(name: str, base_url: str, api: str | None, chat_only: bool) -> bool:
    """True for a model that is to be called by the Responses API: as `api` says, else where it answers by no other; at
    OpenAI's own address, as other servers of its protocol have Chat Completions. `chat_only`: a parameter is set that
    the other API alone has."""
    if api is not None:
        return api == "responses"
    return base_url == credentials.OPENAI and not chat_only and facts_of("openai", name).responses


def _as_ours(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by the names that wires know."""
    sent = {_RENAMED.get(name, name): value for name, value in params.items() if name not in _LANGCHAIN}
    return {**sent, **params.get("model_kwargs", {})}
