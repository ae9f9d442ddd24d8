"""Bills recomputed by hand from the prices that providers publish, in USD a million tokens."""

from __future__ import annotations

from decimal import Decimal

import pytest

from schemas.spec.sections import Price
from stages.limits.budget import most_of
from stages.limits.prices import pricer

BILLS: dict[str, tuple[str, dict[str, int], list[tuple[int, str]]]] = {
    "OpenAI: cached input at a tenth": (
        "openai:gpt-5", {"input": 10_000, "cached_input": 8_000, "output": 1_000},
        [(2_000, "1.25"), (8_000, "0.125"), (1_000, "10")],
    ),
    "OpenAI: reasoning is output": (
        "openai:gpt-5-mini", {"input": 10_000, "output": 3_000, "reasoning": 2_500}, [(10_000, "0.25"), (3_000, "2")],
    ),
    "OpenAI: cached input at a quarter": (
        "openai:gpt-4.1", {"input": 4_000, "cached_input": 3_000, "output": 10},
        [(1_000, "2"), (3_000, "0.50"), (10, "8")],
    ),
    "OpenAI: embeddings": ("openai:text-embedding-3-small", {"input": 1_000_000, "output": 0}, [(1_000_000, "0.02")]),
    "Anthropic: writes for five minutes and for an hour": (
        "anthropic:claude-haiku-4-5",
        {"input": 10_000, "cached_input": 5_000, "cache_write": 4_000, "cache_write_1h": 1_000, "output": 200},
        [(1_000, "1"), (5_000, "0.10"), (3_000, "1.25"), (1_000, "2"), (200, "5")],
    ),
    "Anthropic: a long prompt is dearer, all of it": (
        "anthropic:claude-sonnet-4-5", {"input": 300_000, "output": 1_000}, [(300_000, "6"), (1_000, "22.50")],
    ),
    "Gemini: a short prompt": ("google_genai:gemini-2.5-pro", {"input": 100_000, "output": 1_000},
                               [(100_000, "1.25"), (1_000, "10")]),
    "Gemini: a long prompt is dearer": (
        "google_genai:gemini-2.5-pro", {"input": 250_000, "output": 1_000}, [(250_000, "2.50"), (1_000, "15")],
    ),
    "Bedrock: a region's endpoint costs a tenth more": (
        "bedrock_converse:us.anthropic.claude-haiku-4-5-20251001-v1:0", {"input": 10_000, "output": 1_000},
        [(10_000, "1.10"), (1_000, "5.50")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BILLS)
def test_a_call_costs_what_its_provider_publishes(name: str) -> None:
    model, usage, lines = BILLS[name]
    bill = sum(tokens * Decimal(price) for tokens, price in lines) / 1_000_000
    assert pricer(model, {})(usage) == pytest.approx(float(bill), rel=1e-9)


def test_a_price_that_nobody_knows_is_none_and_never_zero() -> None:
    assert pricer("openai:a-model-of-ours", {})({"input": 1_000, "output": 10}) is None


def test_images_that_are_billed_by_number_are_counted_beside_the_tokens() -> None:
    own = {"openai:m": Price(input=1, output=2, image=0.0001)}
    usage = {"input": 1_000, "output": 10, "images": 3}
    assert pricer("openai:m", own)(usage) == pytest.approx(0.001 + 0.00002 + 0.0003)
    most = most_of(pricer("openai:m", own), 64, 10, images=3)
    assert most.nanos == most_of(pricer("openai:m", own), 64, 10).nanos + 300_000


def test_images_that_are_billed_as_tokens_cost_nothing_besides() -> None:
    usage = {"input": 1_000, "output": 10}
    for name in ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5", "google_genai:gemini-2.5-flash"):
        assert pricer(name, {})({**usage, "images": 3}) == pricer(name, {})(usage)
    assert pricer("openai:m", {"openai:m": Price(input=1, output=2)})({**usage, "images": 3}) == pytest.approx(0.00102)
    assert pricer("openai:a-model-of-ours", {})({**usage, "images": 3}) is None


@pytest.mark.parametrize("name", [
    "google_genai:models/gemini-2.5-flash", "google_vertexai:publishers/google/models/gemini-2.5-flash",
    "google_vertexai:projects/p/locations/l/publishers/google/models/gemini-2.5-flash",
])  # fmt: skip
def test_a_model_of_googles_costs_the_same_by_each_of_its_names(name: str) -> None:
    usage = {"input": 100_000, "output": 1_000}
    assert pricer(name, {})(usage) == pricer("google_genai:gemini-2.5-flash", {})(usage) == pytest.approx(0.0325)


def test_a_model_of_another_publisher_has_no_price_of_googles() -> None:
    for name in ("meta/llama-4", "projects/7/locations/us-east1/endpoints/9"):
        assert pricer(f"google_vertexai:{name}", {})({"input": 1, "output": 1}) is None
