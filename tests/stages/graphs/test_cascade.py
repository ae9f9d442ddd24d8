"""cascade: a better model where the cheap one is not good enough, and only there."""

from typing import Any

import pyarrow as pa
import pytest

from schemas.errors import SpecError
from stages.contract import BY, GraphStage
from stages.execution.provenance import RowProvenance
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, a_graph_stage, answers, enrich, kinds

CHEAP = "openai:cheap"


def a_cascade(**options: Any) -> GraphStage:
    return a_graph_stage(
        {"uses": "cascade", "model": {"main": MODEL, "cheap": CHEAP}, "prompt": "{{ text }}",
         "output": {"word": "str", "sure": {"type": "float", "ge": 0, "le": 1}},
         "with": {"confidence": "sure", "below": 0.7, "answered_by": "by", **options}}
    )  # fmt: skip


def said(sure: float) -> str:
    return f'[[answer: {{"word": "x", "sure": {sure}}}]]'


async def test_only_unsure_answers_are_asked_for_again(server: ModelServer) -> None:
    outcome = await enrich(a_cascade(), [said(0.9), said(0.7), said(0.69), said(0.1)])
    found = [answer and answer["by"] for answer in answers(outcome)]
    assert found == [CHEAP, CHEAP, MODEL, MODEL]
    models = [call.model for call in server.calls()]
    assert (models.count("cheap"), models.count("test-model")) == (4, 2)


@pytest.mark.parametrize("action", ["bad_json", "wrong_schema", "refusal", "length"])
async def test_what_the_cheap_model_cannot_answer_the_other_does(server: ModelServer, action: str) -> None:
    server.script({"rules": [{"action": action, "times": 1}]})
    outcome = await enrich(a_cascade(), [said(0.9)])
    assert answers(outcome) == [{"word": "x", "sure": 0.9, "by": MODEL, BY: "main"}]
    assert server.stats().requests == 2


async def test_the_cheap_model_may_be_given_another_try(server: ModelServer) -> None:
    server.script({"rules": [{"action": "bad_json", "times": 1}]})
    outcome = await enrich(a_cascade(repairs=1), [said(0.9)])
    assert answers(outcome) == [{"word": "x", "sure": 0.9, "by": CHEAP, BY: "cheap"}]


async def test_what_neither_can_answer_is_rejected(server: ModelServer) -> None:
    server.script({"rules": [{"action": "bad_json"}]})
    assert kinds(await enrich(a_cascade(), ["a"])) == ["invalid_answer"]
    assert server.stats().requests == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"confidence": "word"}, "with.confidence = 'word' is no float output"),
        ({"below": None}, "with.below and with.confidence belong together"),
        ({"answered_by": "word"}, "with.answered_by = 'word' is declared under output"),
        ({"answered_by": "text"}, "'text' is already a column"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        a_cascade(**options)


async def test_a_row_says_which_of_the_models_answered_it(server: ModelServer) -> None:
    stage = a_cascade()
    outcome = await enrich(stage, [said(0.9), said(0.1)])
    made = RowProvenance()
    for at, record in enumerate(outcome.records):
        assert record is not None
        made.add(at, record.id, stage, record)
    rows = made.append_to(pa.table({"at": [0, 1]}), [0, 1])
    assert rows["tandem_model"].to_pylist() == [CHEAP, MODEL]
