"""Batch jobs of providers for the model server: OpenAI's Files and Batches, Anthropic's, Gemini's, Bedrock's. Times
and faults are those of the script (`tests.harness.script.JobScript`)."""

from __future__ import annotations

from tests.harness.jobs.anthropic import AnthropicBatches
from tests.harness.jobs.bedrock import BedrockBatches
from tests.harness.jobs.gemini import GeminiBatches
from tests.harness.jobs.openai import OpenAIBatches
from tests.harness.jobs.server import Jobs, Provider

PROVIDERS: tuple[type[Provider], ...] = (OpenAIBatches, AnthropicBatches, GeminiBatches, BedrockBatches)

__all__ = ["PROVIDERS", "Jobs", "Provider"]
