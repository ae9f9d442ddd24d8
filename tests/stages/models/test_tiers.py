"""Price tiers: which model has which, and what they are no part of."""

from typing import Any

import pytest

from pipeline.runs.requests import request_digest
from schemas.plan import Selection
from schemas.spec.sections import Spec
from schemas.spec.tiers import uniform_tier, with_tier
from schemas.tier import Tier
from stages.models.settings.tiers import absent_tiers, effective_tier, pool_of
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
        ("bedrock:amazon.nova-lite-v1:0", "batch", "batch jobs"),
        ("bedrock_converse:amazon.nova-lite-v1:0", "batch", "params.batch_role"),
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


ROLE, PLACE = "arn:aws:iam::123456789012:role/batch", "s3://my-bucket/tandem"


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"batch_role": ROLE, "batch_output": PLACE}, ""),
        ({"batch_role": ROLE, "batch_output": f"{PLACE}/"}, ""),
        ({"batch_output": PLACE}, "batch_role"),
        ({"batch_role": ROLE}, "batch_output"),
        ({"batch_role": "batch", "batch_output": PLACE}, "'batch'"),
        ({"batch_role": ROLE, "batch_output": "/tmp/x"}, "'/tmp/x'"),
    ],
)
def test_jobs_on_bedrock_need_a_role_and_a_place(params: dict[str, str], word: str) -> None:
    """What is missing or wrong is named; such a model may be asked live instead, where the spec allows that."""
    model = {"name": "bedrock_converse:amazon.nova-lite-v1:0", "tier": "batch", "params": params}
    found = [sentence for sentence, _ in absent_tiers(a_tiered(model))]
    assert [word in sentence for sentence in found] == ([True] if word else [])
    (stage,) = a_tiered(model, after_deadline="standard").stages
    limits = a_tiered(model, after_deadline="standard").limits
    assert effective_tier(stage.model["main"], stage, limits) == ("standard" if word else "batch")


def test_the_role_and_the_place_of_jobs_are_no_part_of_what_was_asked() -> None:
    name = "bedrock_converse:amazon.nova-lite-v1:0"
    dumped = [
        a_tiered({"name": name, "params": params}).stages[0].model_dump(exclude_defaults=True)
        for params in ({}, {"batch_role": ROLE, "batch_output": PLACE})
    ]
    plain, placed = (a_graph_stage({**stage, "prompt": "{{ text }}"}) for stage in dumped)
    assert plain.fingerprint == placed.fingerprint


@pytest.mark.parametrize("name", ["google_genai:gemini-embedding-001", "bedrock_converse:amazon.titan-embed-text-v2:0"])
def test_embeddings_go_in_jobs_at_openai_alone(name: str) -> None:
    """A job of another provider would ask a chat model's question of a model that embeds."""
    params = {"batch_role": ROLE, "batch_output": PLACE} if "bedrock" in name else {}
    stage = {
        "uses": "embed",
        "model": {"name": name, "tier": "batch", "params": params},
        "prompt": "{{ text }}",
        "output": {"v": "list[float]"},
    }
    found = [sentence for sentence, _ in absent_tiers(a_spec(stage))]
    assert ["no batch jobs" in sentence for sentence in found] == [True]


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
