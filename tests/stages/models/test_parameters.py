"""What a spec asks of a model in vain is told before a run."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.client.preflight import refuse_untaken
from schemas.errors import UsageError
from schemas.spec.sections import Spec
from stages.models.settings.parameters import Complaint, complaints


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL",
                 "GOOGLE_GEMINI_BASE_URL"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def told(model: Any, **stage: Any) -> list[Complaint]:
    spec = Spec.model_validate(
        {"name": "t", "source": {"path": "x.csv"}, "sink": {"path": "o"},
         "stages": [{"name": "s", "uses": "extract", "model": model, "prompt": "x", "output": {"a": "str"}, **stage}]}
    )  # fmt: skip
    return list(complaints(spec))


@pytest.mark.parametrize(
    ("model", "stage", "words"),
    [
        ("openai:gpt-5-mini", {"params": {"temperature": 0}}, "takes no temperature = 0"),
        ("openai:o3", {"params": {"stop": ["x"]}}, "takes no stop"),
        ("openai:gpt-4o", {"reasoning": {"effort": "low"}}, "does not reason"),
        ("openai:gpt-4o", {"verbosity": "low"}, "knows no verbosity"),
        ("openai:gpt-5", {"reasoning": {"effort": "max"}}, "knows no reasoning.effort 'max'"),
        ("openai:gpt-5.1", {"reasoning": {"effort": "low"}, "params": {"temperature": 0}}, "takes no temperature"),
        ("openai:gpt-4o", {"params": {"max_tokens": 20_000}}, "16,384 tokens at most"),
        ("anthropic:claude-opus-5", {"params": {"top_k": 3}}, "takes no top_k = 3"),
        ("anthropic:claude-haiku-4-5", {"params": {"seed": 3}}, "takes no seed"),
        ("anthropic:claude-opus-4-6", {"reasoning": {"effort": "xhigh"}}, "knows no reasoning.effort"),
        ("google:gemini-2.0-flash", {"reasoning": {"effort": "high"}}, "does not reason"),
    ],
)
def test_what_the_provider_refuses_is_an_error_at_its_own_address_alone(
    model: str, stage: dict[str, Any], words: str
) -> None:
    (own,) = told(model, **stage)
    assert words in own.message
    assert own.hint
    assert own.refused
    stage["params"] = {**stage.get("params", {}), "base_url": "http://localhost:8000/v1"}
    (elsewhere,) = told(model, **stage)
    assert not elsewhere.refused


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        ("openai:gpt-5-mini", {"params": {"temperature": 1, "seed": 7}, "reasoning": {"effort": "minimal"}}),
        ("openai:gpt-5-mini", {"params": {"extra_body": {"temperature": 0}}}),
        ("openai:gpt-5.1", {"params": {"temperature": 0}}),
        ("openai:gpt-5.1", {"params": {"temperature": 0}, "reasoning": {"effort": "none"}}),
        ("openai:gpt-4o", {"params": {"temperature": 0, "stop": ["x"]}}),
        ("openai:llama", {"params": {"temperature": 0, "max_tokens": 900_000}, "reasoning": {"effort": "low"}}),
        ("anthropic:claude-haiku-4-5", {"params": {"temperature": 0}, "reasoning": {"effort": "max"}}),
        ("google:gemini-2.5-flash", {"params": {"temperature": 0}, "reasoning": {"effort": "none"}}),
        ("ollama:llama", {"params": {"temperature": 0}}),
    ],
)
def test_what_a_model_takes_is_no_complaint(model: str, stage: dict[str, Any]) -> None:
    assert told(model, **stage) == []


def test_what_is_left_out_is_a_warning() -> None:
    (verbosity,) = told("anthropic:claude-haiku-4-5", verbosity="low")
    assert not verbosity.refused
    (room,) = told("anthropic:claude-haiku-4-5", reasoning={"effort": "low"}, params={"max_tokens": 900})
    assert "no room to reason" in room.message
    assert not room.refused


def test_each_model_of_a_role_is_looked_at_once() -> None:
    model = {"try": ["openai:gpt-4o", "openai:gpt-5", {"name": "openai:gpt-5", "params": {"top_p": 1}}]}
    assert [one.message for one in told(model, params={"temperature": 0})] == [
        "stage s: model 'openai:gpt-5' takes no temperature = 0."
    ]


def test_portable_keys_are_another_spelling_of_parameters() -> None:
    def stage(**keys: Any) -> Any:
        base = {"name": "s", "uses": "extract", "model": "openai:m", "prompt": "x", "output": {"a": "str"}}
        return Spec.model_validate(
            {"name": "t", "source": {"path": "x.csv"}, "sink": {"path": "o"}, "stages": [{**base, **keys}]}
        ).stages[0]

    short = stage(reasoning={"effort": "low"}, verbosity="high", params={"seed": 1})
    assert short == stage(params={"seed": 1, "reasoning_effort": "low", "verbosity": "high"})
    assert stage(reasoning=None) == stage()
    for wrong, words in (
        ({"reasoning": {"effort": "huge"}}, "one of none, minimal"), ({"reasoning": "low"}, "effort"),
        ({"verbosity": 3}, "verbosity = 3"),
        ({"reasoning": {"effort": "low"}, "params": {"reasoning_effort": "high"}}, "set twice"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            stage(**wrong)


def test_a_run_does_not_start_with_what_the_provider_refuses() -> None:
    spec = Spec.model_validate(
        {"name": "t", "source": {"path": "x.csv"}, "sink": {"path": "o"},
         "stages": [{"name": "s", "uses": "extract", "model": "openai:gpt-5-mini", "prompt": "x",
                     "output": {"a": "str"}, "params": {"temperature": 0}}]}
    )  # fmt: skip
    with pytest.raises(UsageError, match="takes no temperature = 0") as caught:
        refuse_untaken(spec)
    assert caught.value.hint == "Take temperature out of params."
    elsewhere = {"temperature": 0, "base_url": "http://localhost:8000/v1"}
    refuse_untaken(spec.model_copy(update={"stages": [spec.stages[0].model_copy(update={"params": elsewhere})]}))
