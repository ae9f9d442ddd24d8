"""The services of models, with access to clouds: what a cloud needs is imported when a model asks for it."""

from collections.abc import Mapping
from typing import Any

from pipeline.vertex import vertex_access
from stages.models.settings.choice import ModelServices
from stages.models.wires.signing import SignedAccess


def model_services() -> ModelServices:
    """Return the services of a process's models, access to clouds among them."""
    return ModelServices(bedrock=_bedrock_access, vertex=vertex_access)


def _bedrock_access(params: Mapping[str, Any]) -> SignedAccess:
    from pipeline.bedrock import bedrock_access  # boto3, a tenth of a second that most specs do without

    return bedrock_access(params)
