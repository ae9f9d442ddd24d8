"""summarize: any length, bounded questions, nothing asked twice."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract import GraphStage
from stages.text.chunks import chunked
from stages.text.tokens import tokens
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, enrich, kinds, until

PAGE = "\n\n".join(f"Paragraph {at} says that item {at} costs {at * 7} euros. It is final." for at in range(60))


def a_summarize(**changed: Any) -> GraphStage:
    options = {"chunk_tokens": 400, "parallel": 4, **changed.pop("options", {})}
    in_flight = changed.pop("rows_in_flight", 32)
    return a_graph_stage(
        {"uses": "summarize", "model": MODEL, "prompt": "{{ text }}", "output": {"summary": "str"}, "with": options,
         **changed},
        rows_in_flight=in_flight,
    )  # fmt: skip


@given(st.text(alphabet="ab .!?\n\u00e9\U0001f600", max_size=400), st.integers(1, 30))
def test_chunks_join_to_the_text_and_none_is_too_long(text: str, size: int) -> None:
    found = chunked(text, size)
    assert "".join(found) == text
    assert all(0 < tokens(chunk) <= size for chunk in found)


def test_chunks_end_at_paragraphs_then_at_sentences() -> None:
    assert chunked("One is.\n\nTwo is. Two was.\n\n", 5) == ["One is.\n\n", "Two is. Two was.\n\n"]
    assert chunked("Two is now here. Two was then there.", 5) == ["Two is now here. ", "Two was then there."]


async def test_a_short_text_is_one_question(server: ModelServer) -> None:
    assert kinds(await enrich(a_summarize(), ["A short text."])) == ["ok"]
    assert server.stats().requests == 1


async def test_a_long_text_is_read_in_chunks_at_most_so_many_at_once(server: ModelServer) -> None:
    server.script({"latency_ms": 30, "rules": [{"match": "<text", "action": "text", "text": '{"notes": "costs"}'}]})
    text = PAGE * 5
    chunks = len(chunked(text, 400))
    stage = a_summarize()
    outcome = await enrich(stage, [text])
    assert kinds(outcome) == ["ok"]
    stats = server.stats()
    assert chunks > 10
    assert stats.requests == chunks + 1
    assert 1 < stats.max_in_flight <= 4
    assert all(tokens(call.message) <= 450 for call in server.calls())
    assert server.calls()[-1].message.startswith("<notes ")


async def test_three_hundred_pages_are_read_within_the_limit_of_calls_in_flight(server: ModelServer) -> None:
    """`rows_in_flight` bounds calls, also those of one row; `parallel` those of a row."""
    server.script({"latency_ms": 20, "rules": [{"match": "<text", "action": "text", "text": '{"notes": "costs"}'}]})
    book = "\n\n".join(f"Page {page}. {PAGE[:3000]}" for page in range(300))
    stage = a_summarize(options={"chunk_tokens": 6000, "parallel": 50}, rows_in_flight=5)
    assert kinds(await enrich(stage, [book])) == ["ok"]
    stats = server.stats()
    assert len(book) > 850_000
    assert stats.requests == len(chunked(book, 6000)) + 1 > 35
    assert stats.max_in_flight == 5


async def test_notes_that_are_too_long_are_read_in_chunks_again(server: ModelServer) -> None:
    note = '{"notes": "' + "word " * 100 + '"}'
    server.script(
        {"rules": [{"match": "Paragraph", "action": "text", "text": note},
                   {"match": "<text", "action": "text", "text": '{"notes": "short"}'}]}
    )  # fmt: skip
    outcome = await enrich(a_summarize(), [PAGE * 5])
    assert kinds(outcome) == ["ok"]
    levels = {call.message.split("\n")[1][:5] for call in server.calls()}
    assert levels >= {"word ", "short"}


async def test_notes_that_never_get_shorter_reject_the_row(server: ModelServer) -> None:
    note = '{"notes": "' + "word " * 450 + '"}'
    server.script({"rules": [{"action": "text", "text": note}]})
    assert kinds(await enrich(a_summarize(), [PAGE])) == ["no_shorter"]


async def test_the_notes_may_be_a_cheaper_models(server: ModelServer) -> None:
    server.script({"rules": [{"match": "<text", "action": "text", "text": '{"notes": "costs"}'}]})
    stage = a_summarize(model={"main": MODEL, "notes": "openai:cheap"})
    assert kinds(await enrich(stage, [PAGE])) == ["ok"]
    *notes, last = [call.model for call in server.calls()]
    assert set(notes) == {"cheap"}
    assert last == "test-model"


async def test_killed_in_the_middle_only_what_is_missing_is_paid(server: ModelServer) -> None:
    """A batch that is cancelled with half of the notes taken is run again from its journal."""
    note = {"match": "<text", "action": "text", "text": '{"notes": "costs"}'}
    server.script({"rules": [{"match": "item 55", "action": "hang"}, note]})
    segments = Segments()
    chunks = chunked(PAGE, 100)
    stage = a_summarize(options={"chunk_tokens": 100, "parallel": 64})
    doomed = asyncio.create_task(enrich(stage, [PAGE], a_context(segments)))
    await until(lambda: server.stats().answered_ok == len(chunks) - 1)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    paid = server.stats().answered_ok
    server.script({"rules": [note]})
    assert kinds(await enrich(stage, [PAGE], a_context(segments))) == ["ok"]
    assert server.stats().answered_ok == paid + 2  # the one that hung, and the answer
    assert server.stats().max_ok_per_content == 1
    assert len(chunks) > 8
