"""How sure a model was, from the log-probabilities of the values that it chose."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from langchain_core.messages import AIMessage

from schemas.errors import SpecError
from stages.graphs.extract import ExtractOptions
from stages.models.logprobs import LOGPROBS, least_probability, tokens_with_logprobs
from stages.models.settings.parameters import complaints
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, a_spec, answers, enrich, kinds

OUTPUT: dict[str, Any] = {"tone": {"type": "enum", "values": ["good", "bad"]}, "urgent": "bool", "note": "str"}
SURE = {"column": "sure", "from": "logprobs"}


def stage_of(**changed: Any) -> Any:
    stage = {"uses": "extract", "model": MODEL, "prompt": "{{ text }}", "output": OUTPUT, "with": {"confidence": SURE}}
    return a_graph_stage({**stage, **changed})


def row(logprob: float, **answer: Any) -> str:
    whole = {"tone": "good", "urgent": False, "note": "é", **answer}
    return f"[[answer: {orjson.dumps(whole).decode()}]] [[logprob: {logprob}]]"


def message(text: str, tokens: list[tuple[str, float]]) -> AIMessage:
    spans = [[len(token.encode()), logprob] for token, logprob in tokens]
    return AIMessage(text, response_metadata={LOGPROBS: spans})


# The number -----------------------------------------------------------------------------------------------------------


def test_a_value_is_as_probable_as_its_tokens_together() -> None:
    text = '{"né": "é", "tone": "very bad", "urgent": true}'
    tokens = [('{"né": "é', -9.0), ('", "tone": ', -9.0), ('"very', -0.5), (' bad"', -0.25), (', "urgent": ', -9.0),
              ("true}", -0.1)]  # fmt: skip
    assert least_probability(message(text, tokens), ["tone"]) == pytest.approx(math.exp(-0.75))
    assert least_probability(message(text, tokens), ["urgent"]) == pytest.approx(math.exp(-0.1))
    assert least_probability(message(text, tokens), ["urgent", "tone"]) == pytest.approx(math.exp(-0.75))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ('{"tone": "bad"}', []),
        ('{"tone": "bad"}', [('{"tone"', -0.1)]),  # of another text
        ("bad", [("bad", -0.1)]),
        ('{"tone": ', [('{"tone": ', -0.1)]),
        ('{"other": 1}', [('{"other": 1}', -0.1)]),
    ],
)
def test_what_cannot_be_known_is_null(text: str, tokens: list[tuple[str, float]]) -> None:
    assert least_probability(message(text, tokens), ["tone"]) is None


def test_tokens_that_are_parts_of_a_character_are_counted_by_their_bytes() -> None:
    halves = [
        {"token": "\\xc3", "bytes": [0xC3], "logprob": -0.1},
        {"token": "\\xa9", "bytes": [0xA9], "logprob": -0.2},
    ]
    assert tokens_with_logprobs(halves, "token", "logprob") == [[1, -0.1], [1, -0.2]]
    assert tokens_with_logprobs([{"token": "é", "logProbability": -0.1}], "token", "logProbability") == [[2, -0.1]]
    assert tokens_with_logprobs(None, "token", "logprob") is None


# In a stage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, "google:gemini-2.5-flash"])
async def test_the_column_is_the_probability_of_the_least_probable_choice(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    for name, value in server.other_providers().items():
        monkeypatch.setenv(name, value)
    store = Segments()
    rows = [row(0), row(-0.1)]
    first, second = answers(await enrich(stage_of(model=model), rows, a_context(store)))
    assert first == {"tone": "good", "urgent": False, "note": "é", "sure": 1.0}
    text = '{"tone":"good","urgent":false,"note":"é"}'
    # The server's tokens have three characters: "good" is in those from 6 to 15.
    touched = len({at // 3 for at in range(text.index('"good"'), text.index('"good"') + 6)})
    assert second is not None
    assert second["sure"] == pytest.approx(math.exp(-0.1 * touched), rel=1e-6)
    again = stage_of(model=model, version=2)
    assert answers(await enrich(again, rows, a_context(store, run="run-2"))) == [first, second], "from the journal"
    assert server.stats().requests == 2


async def test_classify_counts_its_label_alone_and_takes_the_fallback_below(server: ModelServer) -> None:
    options = {"confidence": SURE, "label": "tone", "below": 0.5, "fallback": "bad"}
    stage = stage_of(uses="classify", **{"with": options})
    found = answers(await enrich(stage, [row(-0.01), row(-1)], a_context()))
    assert [one["tone"] for one in found if one] == ["good", "bad"]
    assert "how sure you are" not in str(server.calls()[0].message)


async def test_cascade_asks_main_where_the_cheap_model_is_not_sure(server: ModelServer) -> None:
    models = {"main": "openai:large", "cheap": "openai:small"}
    stage = stage_of(uses="cascade", model=models, **{"with": {"confidence": SURE, "below": 0.5}})
    outcome = await enrich(stage, [row(-0.01), row(-1)], a_context())
    assert kinds(outcome) == ["ok", "ok"]
    assert [call.model for call in server.calls()].count("large") == 1


async def test_a_person_is_asked_below_and_the_number_stays_beside_the_answer(server: ModelServer) -> None:
    stage = stage_of(**{"with": {"confidence": SURE, "ask_below": 0.5}})
    outcome = await enrich(stage, [row(-0.01), row(-1)], a_context())
    assert kinds(outcome) == ["ok", "pending"]


async def test_judge_keeps_the_number_of_the_draft_that_is_kept(server: ModelServer) -> None:
    stage = stage_of(uses="judge", **{"with": {"confidence": SURE, "rubric": "short"}})
    (found,) = answers(await enrich(stage, [row(0, score=1, problems=[])], a_context()))
    assert found is not None
    assert found["sure"] == 1.0


async def test_it_is_asked_for_only_where_it_is_used(server: ModelServer) -> None:
    store = Segments()
    await enrich(stage_of(**{"with": {}}), [row(0)], a_context(store))
    assert b"logprobs" not in b"".join(store.data)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"model": "anthropic:claude-haiku-4-5"}, "'anthropic:claude-haiku-4-5' gives no log-probabilities"),
        ({"model": {"main": {"try": [MODEL, "anthropic:claude-haiku-4-5"]}}}, "gives no log-probabilities"),
        ({"output": {"note": "str"}}, "needs an output of type enum or bool"),
        ({"output": {**OUTPUT, "sure": "float"}}, "with.confidence.column = 'sure' is declared under output"),
        ({"with": {"confidence": "sure"}}, "with.confidence = 'sure' is no float output"),
        ({"with": {"confidence": {"column": "sure", "from": "guess"}}}, "with.confidence.from"),
        ({"with": {"ask_below": 0.5}}, "with.ask_below needs with.confidence"),
    ],
)
def test_what_cannot_work_is_said(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as refused:
        stage_of(**changed)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("model", "refused"),
    [("openai:gpt-5-mini", True), ("openai:gpt-5-pro", True), ("openai:gpt-4.1", False), ("openai:gpt-5.1", False),
     ("google:gemini-2.5-flash", False)],
)  # fmt: skip
def test_check_knows_models_without_log_probabilities(
    monkeypatch: pytest.MonkeyPatch, model: str, refused: bool
) -> None:
    for name in ("OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    stage = {"uses": "extract", "prompt": "x", "output": OUTPUT, "with": {"confidence": SURE}}
    found = [one for one in complaints(a_spec({**stage, "model": model})) if "log-probabilities" in one.message]
    assert [one.refused for one in found] == ([True] if refused else [])
    cascade = {**stage, "uses": "cascade", "model": {"main": model, "cheap": "openai:gpt-4.1-nano"}}
    assert not list(complaints(a_spec({**cascade, "with": {"confidence": SURE, "below": 0.5}}))), "main is not asked"


def test_a_name_alone_means_what_it_always_meant() -> None:
    written = [{"confidence": "sure"}, {"confidence": {"column": "sure", "from": "answer"}}]
    dumps = [ExtractOptions.model_validate(one).model_dump(mode="json", exclude_none=True) for one in written]
    assert dumps == [{"confidence": "sure"}, {"confidence": "sure"}]
