"""embed: vectors, journalled and paid for as answers are."""

import math
from typing import Any

import pytest

from schemas.errors import SpecError
from stages.contract import GraphStage
from stages.journal.records import CallRecord
from stages.models.embeddings.vectors import packed, unpacked
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, a_graph_stage, answers, enrich, kinds

MODEL = "openai:text-embedding-3-small"


def an_embed(model: str = MODEL, output: Any = None, options: Any = None, **changed: Any) -> GraphStage:
    return a_graph_stage(
        {"uses": "embed", "model": model, "prompt": "{{ text }}", "output": output or {"vector": "list[float]"},
         "with": options or {}, **changed}
    )  # fmt: skip


async def test_a_text_costs_one_request_and_none_the_second_time(server: ModelServer) -> None:
    segments = Segments()
    first = await enrich(an_embed(), ["a lamp", "a chair", "a lamp", None], a_context(segments))
    vectors = [answer and answer["vector"] for answer in answers(first)]
    assert [vector and len(vector) for vector in vectors] == [8, 8, 8, None]
    assert vectors[0] == vectors[2] != vectors[1]
    sent = server.stats().requests
    assert sent in (1, 2), "two texts, in one request where they come together"
    again = await enrich(an_embed(version=2), ["a lamp"], a_context(segments, run="run-2"))
    assert answers(again)[0] == answers(first)[0]
    assert server.stats().requests == sent
    calls = [record for record in segments.records if isinstance(record, CallRecord)]
    assert all(call.cost_usd is not None and call.usage["output"] == 0 for call in calls)


async def test_many_texts_go_in_one_request_and_each_has_its_record(server: ModelServer) -> None:
    server.script({"latency_ms": 50})
    segments = Segments()
    texts = [f"text {n} {'word ' * (n % 7)}" for n in range(99)]
    outcome = await enrich(an_embed(), texts, a_context(segments))
    assert kinds(outcome) == ["ok"] * 99
    assert server.stats().requests <= 50, "eight rows are in flight at once"
    calls = [record for record in segments.records if isinstance(record, CallRecord)]
    assert len(calls) == 99
    assert sum(call.usage["input"] for call in calls) == server.stats().prompt_tokens
    alone = await enrich(an_embed(version=2), [texts[7]], a_context())
    assert answers(alone)[0] == answers(outcome)[7]


async def test_a_text_that_is_refused_rejects_its_row_alone(server: ModelServer) -> None:
    server.script({"rules": [{"match": "poison", "action": "error", "status": 400}]})
    outcome = await enrich(an_embed(), ["poison", *(f"text {n}" for n in range(9))])
    assert kinds(outcome) == ["bad_request", *["ok"] * 9]


async def test_parameters_are_sent_and_a_wrong_length_rejects_the_row(server: ModelServer) -> None:
    assert kinds(await enrich(an_embed(params={"dimensions": 16}, options={"length": 16}), ["a"])) == ["ok"]
    assert kinds(await enrich(an_embed(options={"length": 16}), ["b"])) == ["invalid_answer"]


async def test_transient_failures_are_waited_out(server: ModelServer) -> None:
    server.script({"rules": [{"status": 500, "times": 2}]})
    assert kinds(await enrich(an_embed(), ["a"])) == ["ok"]
    assert server.stats().requests == 3


async def test_the_offline_embedder_puts_texts_that_share_words_near_each_other() -> None:
    stage = an_embed("offline:lexical", options={"normalise": True})
    rows = ["the parcel arrived broken", "the parcel arrived very broken", "please change my password"]
    near, nearer, far = [answer["vector"] for answer in answers(await enrich(stage, rows)) if answer]
    assert math.isclose(sum(number * number for number in near), 1, abs_tol=1e-6)
    assert _dot(near, nearer) > 0.8 > 0.5 > _dot(near, far)


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_vectors_survive_being_packed() -> None:
    assert unpacked(packed([0.5, -1.0, 0.0])) == [0.5, -1.0, 0.0]
    for text in ("no base64!", "AAA", "AAAA"):
        with pytest.raises(ValueError, match=r".*"):
            unpacked(text)


@pytest.mark.parametrize("output", [{"v": "str"}, {"v": "list[str]"}, {"v": "list[float]", "w": "str"}])
def test_the_output_must_be_a_vector(output: Any) -> None:
    with pytest.raises(SpecError, match="needs one output, of type list"):
        an_embed(output=output)
