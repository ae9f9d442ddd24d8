"""What a row's code raises ends that row and no other, whatever it is."""

import asyncio

import pytest

from stages.contract import GraphStage
from stages.text.exceptions import text_of
from tests.stages.execution.misbehaving import RAISED, Unspeakable
from tests.stages.support import a_graph_stage, enrich, kinds


def misbehaving(name: str) -> GraphStage:
    return a_graph_stage({"uses": f"tests.stages.execution.misbehaving:{name}", "output": {"reply": "str"}})


@pytest.mark.parametrize("name", ["graph", "threaded", "inner"])
async def test_a_row_that_raises_anything_is_rejected_and_the_others_go_on(name: str) -> None:
    texts = [text for kind in RAISED for text in (f"before {kind}", kind)]
    outcome = await enrich(misbehaving(name), texts)
    assert outcome.finished
    assert kinds(outcome) == [text if text in RAISED else "ok" for text in texts]
    said = {record.error["kind"]: record.error["message"] for record in outcome.records if record and record.error}
    assert said["SystemExit"] == "3"
    assert "odd" in said["BaseExceptionGroup"]
    assert "RuntimeError" in said["Unspeakable"]


async def test_what_a_row_starts_beside_its_node_ends_nothing_either() -> None:
    outcome = await enrich(misbehaving("left"), ["SystemExit", "KeyboardInterrupt", "fine"])
    assert kinds(outcome) == ["ok", "ok", "ok"]


async def test_a_row_that_raises_does_not_swallow_the_cancel_of_its_batch() -> None:
    batch = asyncio.create_task(enrich(misbehaving("graph"), [f"row {at}" for at in range(200)]))
    await asyncio.sleep(0.01)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch


def test_an_exception_that_cannot_say_what_it_is_is_described_all_the_same() -> None:
    assert text_of(Unspeakable()) == "(no text: its __str__ raised RuntimeError)"
    assert len(text_of(ValueError("x" * 10_000))) == 500
