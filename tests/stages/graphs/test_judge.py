"""judge: the best of a bounded number of drafts, with its score."""

from typing import Any

import pytest

from schemas.errors import SpecError
from stages.contract import GraphStage
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, a_graph_stage, answers, enrich, kinds


def a_judge(model: Any = MODEL, **options: Any) -> GraphStage:
    given = {"rubric": "Polite and short.", "score": "quality", **options}
    return a_graph_stage(
        {"uses": "judge", "model": model, "prompt": "Answer this: {{ text }}", "output": {"reply": "str"},
         "with": given}
    )  # fmt: skip


def verdict(score: float, *problems: str, **rule: Any) -> dict[str, Any]:
    import json

    text = json.dumps({"score": score, "problems": problems})
    return {"match": "<draft", "action": "text", "text": text, **rule}


def draft(text: str, **rule: Any) -> dict[str, Any]:
    return {"action": "text", "text": f'{{"reply": "{text}"}}', "times": 1, **rule}


async def test_a_good_draft_is_not_revised(server: ModelServer) -> None:
    server.script({"rules": [verdict(0.9), draft("one")]})
    assert answers(await enrich(a_judge(), ["hello"])) == [{"reply": "one", "quality": 0.9}]
    assert server.stats().requests == 2


async def test_a_draft_is_revised_with_its_problems(server: ModelServer) -> None:
    server.script({"rules": [verdict(0.2, "It is rude.", times=1), verdict(0.8), draft("one"), draft("two")]})
    assert answers(await enrich(a_judge(), ["hello"])) == [{"reply": "two", "quality": 0.8}]
    _, criticism, revision, _ = server.calls()
    assert "Answer this: hello" in criticism.message
    assert '{"reply":"one"}' in criticism.message
    assert "- It is rude." in revision.message


async def test_a_judge_that_is_never_satisfied_keeps_the_best_draft(server: ModelServer) -> None:
    rules = [verdict(0.3, "a", times=1), verdict(0.5, "b", times=1), verdict(0.1), draft("one"), draft("two"),
             draft("three")]  # fmt: skip
    server.script({"rules": rules})
    assert answers(await enrich(a_judge(), ["hello"])) == [{"reply": "two", "quality": 0.5}]
    assert server.stats().requests == 6


async def test_or_rejects_the_row(server: ModelServer) -> None:
    server.script({"rules": [verdict(0.3, "a")]})
    outcome = await enrich(a_judge(unsatisfied="reject", revisions=1), ["hello"])
    assert kinds(outcome) == ["unsatisfied"]
    record = outcome.records[0]
    assert record is not None
    assert record.error is not None
    assert record.error["message"] == "no draft of 2 was good enough: the best scored 0.3 of 0.8"
    assert server.stats().requests == 4


async def test_the_judge_may_be_another_model(server: ModelServer) -> None:
    server.script({"rules": [verdict(0.9)]})
    await enrich(a_judge({"main": MODEL, "judge": "openai:strict"}), ["hello"])
    assert [call.model for call in server.calls()] == ["test-model", "strict"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rubric": ""}, r"stages\[0\].with.rubric = ''"),
        ({"score": "reply"}, "with.score = 'reply' is declared under output"),
        ({"accept": 8}, r"stages\[0\].with.accept = 8"),
        ({"unsatisfied": "keeep"}, "allowed: keep, reject. Did you mean 'keep'"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        a_judge(**options)


def test_a_rubric_is_needed() -> None:
    with pytest.raises(SpecError, match=r"stages\[0\].with.rubric is missing"):
        a_graph_stage({"uses": "judge", "model": MODEL, "prompt": "{{ text }}", "output": {"reply": "str"}})
