"""A graph that asks a person: its row is parked, and goes on with the answer where it stopped."""

from typing import Any

import orjson
import pytest

from schemas.digests import digest
from schemas.errors import SpecError
from stages.contract import GraphStage
from stages.execution.attempt import StageOutcome
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.questions import GraphQuestion, is_waiting, questions_of
from stages.journal.known import Known
from stages.journal.records import AnswerRecord, Record, RowRecord, VoidRecord, now
from stages.journal.segments import decode_segment, encode_segment
from stages.models.settings.choice import ModelServices
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, answers, enrich, kinds


def a_stage(name: str, services: ModelServices | None = None, **given: Any) -> GraphStage:
    stage = {"uses": f"tests.stages.asking:{name}", "output": {"word": "str"}, **given}
    return a_graph_stage({**stage, "model": MODEL} if name == "plain" else stage, services=services)


def asked(outcome: StageOutcome, at: int = 0) -> list[GraphQuestion]:
    record = outcome.records[at]
    assert record is not None
    return questions_of(record)


def said(record: RowRecord | None, question: GraphQuestion, answer: Any, *, later: float = 0.0) -> AnswerRecord:
    assert record is not None
    text = orjson.dumps(answer).decode()
    return AnswerRecord(record.stage, record.row, record.id, *question.key, text, "review", now() + later, digest(text))


async def answer(store: Segments, outcome: StageOutcome, value: Any, at: int = 0, question: int = 0) -> None:
    await store.put(encode_segment([said(outcome.records[at], asked(outcome, at)[question], value)]))


async def test_a_question_parks_its_row_and_no_other_and_costs_nothing_until_it_is_answered(
    server: ModelServer,
) -> None:
    store, stage = Segments(), a_stage("plain")
    outcome = await enrich(stage, ["a", "b", "b"], a_context(store))
    assert kinds(outcome) == ["pending"] * 3
    assert asked(outcome)[0].asks == {"text": "a", "ask": "fine?"}
    assert server.stats().requests == 4
    record = outcome.records[0]
    assert record is not None
    assert (record.id, len(record.calls), record.answer) == ("row-0", 2, None)

    again = await enrich(stage, ["a", "b", "b"], a_context(store, run="run-2"))
    assert kinds(again) == ["pending"] * 3
    assert server.stats().requests == 4
    await answer(store, outcome, "yes", at=1)
    done = await enrich(stage, ["a", "b", "b"], a_context(store, run="run-3"))
    assert kinds(done) == ["pending", "ok", "ok"], "one answer is for all equal rows"
    assert answers(done)[2] == {"word": "yes"}
    assert server.stats().requests == 5, "only the call after the question was missing"


async def test_a_second_question_comes_after_the_first_and_nothing_is_asked_of_the_model_again(
    server: ModelServer,
) -> None:
    store, stage = Segments(), a_stage("plain")
    first = await enrich(stage, ["a"], a_context(store))
    await answer(store, first, "edit")
    second = await enrich(stage, ["a"], a_context(store, run="run-2"))
    assert [question.asks for question in asked(second)] == ["which word?"]
    assert server.stats().requests == 3
    assert kinds(await enrich(stage, ["a"], a_context(store, run="run-3"))) == ["pending"]
    await answer(store, second, "chosen")
    third = await enrich(stage, ["a"], a_context(store, run="run-4"))
    assert answers(third) == [{"word": "chosen"}]
    assert server.stats().requests == 3
    record = third.records[0]
    assert record is not None
    assert len(record.calls) == len(set(record.calls)) == 3


async def test_what_a_person_makes_of_it_may_be_a_reject(server: ModelServer) -> None:
    store, stage = Segments(), a_stage("plain")
    outcome = await enrich(stage, ["a"], a_context(store))
    await answer(store, outcome, "no")
    done = await enrich(stage, ["a"], a_context(store, run="run-2"))
    assert kinds(done) == ["ValueError"]
    record = done.records[0]
    assert record is not None
    await store.put(encode_segment([VoidRecord(*record.key, record.id, record.calls[-1:], "rejects-retry", now())]))
    assert kinds(await enrich(stage, ["a"], a_context(store, run="run-3"))) == ["ValueError"]
    assert server.stats().requests == 4, "the voided call, and no other"


async def test_questions_asked_at_once_are_answered_one_by_one() -> None:
    store, stage = Segments(), a_stage("parallel")
    outcome = await enrich(stage, ["a b s1 s2"], a_context(store))
    wanted = {"value of a", "value of b", "value of s1", "value of s2"}
    assert {question.asks for question in asked(outcome)} == wanted
    for left in (3, 2, 1, 0):
        question = asked(outcome)[0]
        await store.put(encode_segment([said(outcome.records[0], question, question.asks[-2:].strip().upper())]))
        outcome = await enrich(stage, ["a b s1 s2"], a_context(store))
        assert len(asked(outcome)) == left
    assert answers(outcome) == [{"word": "a=A b=B s1=S1 s2=S2"}]


async def test_equal_questions_of_a_row_are_told_apart_by_their_number() -> None:
    store, stage = Segments(), a_stage("parallel")
    outcome = await enrich(stage, ["a a"], a_context(store))
    assert [question.key[1] for question in asked(outcome)] == [0, 1]
    for at, value in enumerate((1, 2)):
        await answer(store, outcome, value, question=at)
    assert answers(await enrich(stage, ["a a"], a_context(store))) == [{"word": "a=1 a=2"}]


async def test_an_answer_that_the_graph_does_not_take_leaves_its_row_parked() -> None:
    store, stage = Segments(), a_stage("typed")
    outcome = await enrich(stage, ["a"], a_context(store))
    schema = asked(outcome)[0].schema
    assert schema is not None
    assert schema["required"] == ["label"]
    await answer(store, outcome, {"label": "middling"})
    refused = await enrich(stage, ["a"], a_context(store))
    assert "good" in (asked(refused)[0].why or "")
    assert kinds(await enrich(stage, ["a"], a_context(store))) == ["pending"], "it is not tried again"
    await answer(store, refused, {"label": "good"})
    assert answers(await enrich(stage, ["a"], a_context(store))) == [{"word": "good"}]


async def test_whoever_goes_on_with_an_equal_row_of_another_batch_has_its_calls(server: ModelServer) -> None:
    shared, stage = Shared(), a_stage("plain")
    stores = [Segments(), Segments()]
    outcomes = [
        await enrich(stage, ["x"], a_context(store, batch=at, shared=shared)) for at, store in enumerate(stores)
    ]
    assert server.stats().requests == 2
    await answer(stores[1], outcomes[1], "yes")
    done = await enrich(stage, ["x"], a_context(stores[1], run="run-2", batch=1, shared=shared))
    assert answers(done) == [{"word": "yes"}], "what is remembered of the row is out of date"
    assert server.stats().requests == 3


async def test_another_question_is_not_given_the_answer_to_the_one_before(server: ModelServer) -> None:
    store, stage = Segments(), a_stage("plain")
    await answer(store, await enrich(stage, ["a"], a_context(store)), "yes")
    changed = a_stage("plain", version=2)
    assert kinds(await enrich(changed, ["a"], a_context(store))) == ["pending"]
    assert kinds(await enrich(stage, ["a"], a_context(store))) == ["ok"]


@pytest.mark.parametrize("status", ["ok", "rejected", "pending"])
def test_the_last_word_counts_in_whatever_order_it_is_read(status: Any) -> None:
    error = {"kind": "pending", "questions": [{"asks": "x", "digest": "d", "ordinal": 0}]}
    row = RowRecord("s", "r", "i", "pending", None, error, (), "run", 1.0)
    later = RowRecord("s", "r", "i", status, None, error if status == "pending" else None, (), "run", 2.0)
    words = [AnswerRecord("s", "r", "i", "d", 0, f'"{at}"', "review", float(at), str(at)) for at in (1, 2)]
    orders: list[list[Record]] = [[row, later, *words], [*reversed(words), later, row]]
    for records in orders:
        known = Known(decode_segment(encode_segment(records)).records)
        assert known.rows["s", "r"].status == status
        assert known.answers["s", "r"]["d", 0].answer == '"2"'
        assert not is_waiting(known.rows["s", "r"], known)
    assert is_waiting(row, Known([row]))
    assert not is_waiting(None, Known())


# Graphs of ours that ask where their model is not sure ---------------------------------------------------------------

SURE = {"type": "float", "optional": True}
DOUBT = {"confidence": "sure", "ask_below": 0.6}
LABEL = {"category": {"type": "enum", "values": ["billing", "bug", "other"]}, "sure": SURE}
NOTE = {"note": "str", "level": {"type": "int", "ge": 1, "le": 5}, "sure": SURE}


def a_doubting(uses: str, output: dict[str, Any] | str, **changed: Any) -> GraphStage:
    stage = {"uses": uses, "model": MODEL, "prompt": "{{ text }}", "output": output, "with": DOUBT, **changed}
    return a_graph_stage(stage)


@pytest.mark.parametrize(
    ("output", "replies", "person", "wanted"),
    [
        (LABEL, '{"category": "bug", "sure": 0.59}', "other", {"category": "other", "sure": 0.59}),
        (LABEL, '{"category": "bug", "sure": 0.5}', {"sure": 1}, {"category": "bug", "sure": 1.0}),
        (LABEL, '{"category": "bug", "sure": null}', {}, {"category": "bug", "sure": None}),
        (NOTE, '{"note": "n", "level": 2, "sure": 0.1}', {"level": 5}, {"note": "n", "level": 5, "sure": 0.1}),
    ],
)  # fmt: skip
async def test_less_sure_than_that_a_person_corrects_or_confirms(
    server: ModelServer, output: dict[str, Any], replies: str, person: Any, wanted: dict[str, Any]
) -> None:
    store, stage = Segments(), a_doubting("classify" if output is LABEL else "extract", output)
    first = await enrich(stage, [f"[[answer: {replies}]]"], a_context(store))
    assert kinds(first) == ["pending"]
    (question,) = asked(first)
    assert question.asks == {
        "why": f"sure {orjson.loads(replies)['sure']} is below 0.6",
        "answer": orjson.loads(replies),
    }
    await answer(store, first, person)
    done = await enrich(stage, [f"[[answer: {replies}]]"], a_context(store, run="run-2"))
    assert answers(done) == [wanted]
    assert server.stats().requests == 1, "a person's answer costs no call"


async def test_a_person_may_write_a_label_as_a_model_may_and_outputs_may_be_a_class(server: ModelServer) -> None:
    store, stage = Segments(), a_doubting("classify", "tests.stages.asking:Sorted")
    rows = ['[[answer: {"category": "bug", "sure": 0.1}]]']
    first = await enrich(stage, rows, a_context(store))
    (question,) = asked(first)
    assert "$ref" not in str(question.schema)
    await answer(store, first, " Billing.")
    done = await enrich(stage, rows, a_context(store, run="run-2"))
    assert answers(done) == [{"category": "billing", "sure": 0.1}]


async def test_sure_enough_asks_nobody(server: ModelServer) -> None:
    outcome = await enrich(a_doubting("classify", LABEL), ['[[answer: {"category": "bug", "sure": 0.6}]]'])
    assert answers(outcome) == [{"category": "bug", "sure": 0.6}]


@pytest.mark.parametrize(
    ("uses", "output", "person", "why"),
    [
        ("classify", LABEL, "invoices", "category: Input should be 'billing', 'bug' or 'other'"),
        ("extract", NOTE, {"level": 9}, "level: "),
        ("extract", NOTE, {"notes": "x"}, "'notes' is no output; outputs: note, level, sure"),
        ("extract", NOTE, "fine", "expected an object with the outputs to change, not 'fine'"),
    ],
)
async def test_what_a_person_says_is_held_to_the_output_and_asked_again(
    server: ModelServer, uses: str, output: dict[str, Any], person: Any, why: str
) -> None:
    store, stage = Segments(), a_doubting(uses, output)
    rows = ['[[answer: {"category": "bug", "note": "n", "level": 2, "sure": 0.1}]]']
    await answer(store, await enrich(stage, rows, a_context(store)), person)
    again = await enrich(stage, rows, a_context(store, run="run-2"))
    assert kinds(again) == ["pending"]
    (question,) = asked(again)
    assert why in str(question.why)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ask_below": 0.5}, "with.ask_below needs with.confidence"),
        ({"confidence": "category", "ask_below": 0.5}, "with.confidence = 'category' is no float output"),
        ({**DOUBT, "below": 0.3}, "with.below takes the fallback and with.ask_below asks a person"),
    ],
)
def test_doubt_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        a_doubting("classify", LABEL, **{"with": options})
