"""Price tiers: which model has which, and what they are no part of."""

from typing import Any

import pytest

from pipeline.runs.requests import request_digest
from schemas.plan import Selection
from schemas.spec.sections import Spec
from schemas.spec.tiers import uniform_tier, with_tier
from schemas.tier import Tier
from stages.models.settings.tiers import absent_tiers, pool_of
from tests.stages.support import a_graph_stage, a_spec


def a_tiered(model: Any, **limits: Any) -> Spec:
    return a_spec({"uses": "extract", "model": model, "prompt": "{{ text }}", "output": {"a": "str"}}, **limits)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")


@pytest.mark.parametrize("tier", ["flex", "batch"])
def test_a_tier_is_part_of_no_fingerprint_and_of_no_run(tier: Tier) -> None:
    plain, tiered = a_tiered("openai:gpt-5-mini"), a_tiered({"name": "openai:gpt-5-mini", "tier": tier})
    assert request_digest(plain, Selection()) == request_digest(tiered, Selection())
    dumped = [spec.stages[0].model_dump(exclude_defaults=True) for spec in (plain, tiered)]
    stages = [a_graph_stage({**stage, "prompt": "{{ text }}"}) for stage in dumped]
    assert stages[0].fingerprint == stages[1].fingerprint
    assert with_tier(plain, tier) == tiered
    assert with_tier(tiered, None) is tiered


def test_models_at_several_tiers_have_none_in_common() -> None:
    spec = a_tiered({"try": ["openai:gpt-5-mini", {"name": "openai:gpt-5", "tier": "batch"}]})
    assert uniform_tier(spec) is None
    assert uniform_tier(with_tier(spec, "flex")) == "flex"


@pytest.mark.parametrize(
    ("name", "tier", "word"),
    [
        ("ollama:llama", "batch", "batch jobs"), ("mistralai:m", "flex", "flex"),
        ("openai:gpt-4o-mini", "flex", "flex"), ("openai:gpt-4o-mini", "batch", ""),
        ("openai:gpt-5-mini", "flex", ""), ("anthropic:claude-haiku-4-5", "batch", ""),
        ("anthropic:claude-haiku-4-5", "flex", "flex"), ("offline:lexical", "batch", ""),
    ],
)  # fmt: skip
def test_a_tier_that_a_model_has_not_is_named(name: str, tier: str, word: str) -> None:
    found = [sentence for sentence, _ in absent_tiers(a_tiered({"name": name, "tier": tier}))]
    assert [word in sentence for sentence in found] == ([True] if word else [])
    allowed = a_tiered({"name": name, "tier": tier}, after_deadline="standard")
    assert list(absent_tiers(allowed)) == []


def test_azure_needs_a_deployment_for_jobs() -> None:
    params = {"base_url": "https://x.openai.azure.com/openai/v1"}
    missing = a_tiered({"name": "openai:gpt-5-mini", "tier": "batch", "params": params})
    assert ["deployment" in sentence for sentence, _ in absent_tiers(missing)] == [True]
    model = {"name": "openai:gpt-5-mini", "tier": "batch", "params": params, "batch_deployment": "jobs"}
    assert list(absent_tiers(a_tiered(model))) == []


def test_a_pool_outlives_a_change_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(model: Any) -> str:
        stage = a_tiered(model).stages[0]
        return pool_of(stage.model["main"], stage)

    before = pool("openai:gpt-5-mini")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-two")
    assert pool("openai:gpt-5-mini") == before
    own_key = {"name": "openai:gpt-5-mini", "params": {"api_key": "sk-three"}}
    elsewhere = {"name": "openai:gpt-5-mini", "params": {"base_url": "https://proxy/v1"}}
    assert len({before, pool("openai:gpt-5"), pool(own_key), pool(elsewhere)}) == 4
