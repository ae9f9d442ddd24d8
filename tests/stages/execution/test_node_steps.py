"""A row's graph one step at a time: nodes that were run are not run again, and the outcome is the same."""

from typing import Any

import polars as pl
import pytest

from stages.contract import GraphStage
from stages.execution.attempt import StageOutcome, Steps
from stages.execution.batch import run_graph_stage
from stages.execution.questions import questions_of
from stages.journal.fingerprints import fingerprints
from stages.journal.records import AnswerRecord, NodeRecord, VoidRecord, now
from stages.journal.segments import encode_segment
from tests.harness.model_server import ModelServer
from tests.stages import stepping
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, answers, enrich, kinds


@pytest.fixture(autouse=True)
def _forget() -> None:
    stepping.ran.clear()


def a_stage(name: str, **given: Any) -> GraphStage:
    return a_graph_stage({"uses": f"tests.stages.{name}", "model": MODEL, "output": {"word": "str"}, **given})


async def one_step(stage: GraphStage, text: str, store: Segments) -> tuple[StageOutcome, bool]:
    """As the activity does it: another attempt's journal, one row."""
    frame = pl.DataFrame({"text": [text]})
    context = a_context(store, strict=True)
    (row,) = fingerprints(frame, stage.reads)
    context.steps = Steps((stage.fingerprint, row), "row-0", "run-1", context.journal)
    try:
        return await run_graph_stage(stage, frame, ["row-0"], context), context.steps.more
    finally:
        await context.journal.close()


async def to_the_end(stage: GraphStage, text: str, store: Segments) -> tuple[StageOutcome, int]:
    for steps in range(1, 20):
        outcome, more = await one_step(stage, text, store)
        if not more:
            return outcome, steps
        assert outcome.records == [None]
        assert outcome.stopped is None
    raise AssertionError("it never ends")


@pytest.mark.parametrize("text", ["a", "loop", "a b c"])
async def test_each_node_runs_once_and_the_answer_and_calls_are_those_of_a_batch(
    server: ModelServer, text: str
) -> None:
    stage = a_stage("stepping:graph")
    whole = await enrich(stage, [text])
    nodes, asked = list(stepping.ran), server.stats().requests
    server.reset()
    stepping.ran.clear()
    store = Segments()
    outcome, steps = await to_the_end(stage, text, store)
    assert answers(outcome) == answers(whole)
    assert sorted(stepping.ran) == sorted(nodes)
    assert server.stats().requests == asked
    assert steps == {"a": 4, "loop": 7, "a b c": 4}[text]
    ours, theirs = outcome.records[0], whole.records[0]
    assert ours is not None
    assert theirs is not None
    assert sorted(ours.calls) == sorted(theirs.calls)


async def test_a_node_that_died_is_run_again_and_no_other(server: ModelServer) -> None:
    stage, store = a_stage("stepping:graph"), Segments()
    await one_step(stage, "a", store)
    await one_step(stage, "a", store)
    before = list(stepping.ran)
    kept = [record for record in store.records if isinstance(record, NodeRecord)]
    store.data = [encode_segment(record for record in store.records if record != kept[-1])]  # it died at its end
    outcome, _ = await to_the_end(stage, "a", store)
    assert kinds(outcome) == ["ok"]
    assert stepping.ran[len(before) :] == ["tool:a", "join", "last"]
    assert server.stats().requests == 3, "what the model answered within the node is not asked again"


async def test_a_node_may_give_a_command_and_messages_and_objects_of_the_users(server: ModelServer) -> None:
    stage, store = a_stage("stepping:rich"), Segments()
    outcome, steps = await to_the_end(stage, "a", store)
    assert answers(outcome) == answers(await enrich(stage, ["a"])) == [{"word": "3 messages, Note(text='a')"}]
    assert steps == 2


async def test_what_cannot_be_kept_rejects_its_row_and_says_which_node(server: ModelServer) -> None:
    outcome, _ = await to_the_end(a_stage("stepping:odd"), "a", Segments())
    assert kinds(outcome) == ["cannot_be_kept"]
    record = outcome.records[0]
    assert record is not None
    assert "node 'make' returned a dict" in str(record.error)


async def test_a_question_parks_the_row_and_its_answer_goes_on_step_by_step(server: ModelServer) -> None:
    stage, store = a_stage("asking:plain"), Segments()
    outcome, steps = await to_the_end(stage, "a", store)
    assert (kinds(outcome), steps) == (["pending"], 2)
    record = outcome.records[0]
    assert record is not None
    (asked,) = questions_of(record)
    await store.put(encode_segment([AnswerRecord(*record.key, record.id, *asked.key, '"yes"', "review", now(), "n")]))
    done, _ = await to_the_end(stage, "a", store)
    assert answers(done) == [{"word": "yes"}]
    assert server.stats().requests == 3


async def test_a_voided_row_forgets_its_nodes_and_keeps_its_calls(server: ModelServer) -> None:
    stage, store = a_stage("stepping:graph"), Segments()
    outcome, _ = await to_the_end(stage, "raise", store)
    assert kinds(outcome) == ["ValueError"]
    record = outcome.records[0]
    assert record is not None
    asked = server.stats().requests
    await store.put(encode_segment([VoidRecord(*record.key, record.id, (), "rejects-retry", now())]))
    stepping.ran.clear()
    await to_the_end(stage, "raise", store)
    assert stepping.ran == ["plan", "tool:raise"]
    assert server.stats().requests == asked
