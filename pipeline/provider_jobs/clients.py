"""Which model has jobs, and their client."""

from urllib.parse import urlsplit

from pipeline.provider_jobs.base import JobClient
from stages.models.settings.tiers import lacks_place
from stages.models.wires.protocols.anthropic import AnthropicMessages
from stages.models.wires.protocols.converse import BedrockConverse
from stages.models.wires.protocols.gemini import GeminiGenerate
from stages.models.wires.protocols.openai_chat import OpenAIChat
from stages.models.wires.protocols.openai_responses import OpenAIResponses
from stages.models.wires.transport import ProviderChatModel

_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".openai.azure.us")


def client_for(model: ProviderChatModel) -> JobClient | None:
    """Return the client of a model's jobs; None if its provider has none."""
    # Here, as they import aiohttp, which commands that make no call do without.
    from pipeline.provider_jobs.providers.anthropic import AnthropicJobs
    from pipeline.provider_jobs.providers.bedrock import BedrockJobs
    from pipeline.provider_jobs.providers.gemini import GeminiJobs
    from pipeline.provider_jobs.providers.openai import OpenAIJobs

    if isinstance(model.wire, OpenAIChat | OpenAIResponses):
        return OpenAIJobs(model, azure=is_azure(model))
    if isinstance(model.wire, AnthropicMessages):
        return AnthropicJobs(model)
    if isinstance(model.wire, BedrockConverse):
        return BedrockJobs(model) if model.batch_role and model.batch_output else None
    return GeminiJobs(model) if isinstance(model.wire, GeminiGenerate) else None


def is_azure(model: ProviderChatModel) -> bool:
    host = urlsplit(model.base_url).hostname or ""
    return host.endswith(_AZURE) or bool(model.batch_deployment)


def no_jobs_because(model: ProviderChatModel) -> str:
    """Return why a model cannot be asked in batch jobs, and the next step, as a sentence; empty if it can."""
    if isinstance(model.wire, BedrockConverse):
        place = {"batch_role": model.batch_role, "batch_output": model.batch_output}
        lacks = lacks_place("bedrock_converse", place)
        return lacks and f"{model.model}: batch jobs need {lacks}."
    if not isinstance(model.wire, OpenAIChat | OpenAIResponses | AnthropicMessages | GeminiGenerate):
        return f"{model.model}: batch jobs of its provider are not supported; set tier: standard for it."
    if is_azure(model) and not model.batch_deployment:
        return f"{model.model}: Azure runs batch jobs on a deployment of their own; name it in params.batch_deployment."
    return ""
