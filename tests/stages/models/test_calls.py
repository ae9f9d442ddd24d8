"""Whatever way a graph calls its model, the call is journalled, limited, retried and paid for once."""

import asyncio
import operator
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, TypedDict

import polars as pl
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel, SecretStr, create_model

from schemas.errors import FatalModelError, RowError
from stages.execution.attempt import BatchContext
from stages.execution.equal_rows.single_flight import Shared
from stages.journal.records import CallRecord
from stages.limits.limiter import Limiter
from stages.models.backend import Backend
from stages.models.calls import journalled
from stages.models.factory import build_model
from stages.models.failures.errors import Waiting
from stages.models.langchain.face import as_langchain
from stages.models.langchain.own_models import journal_own_models
from stages.models.settings.choice import ModelServices
from tests.harness.model_server import ModelServer
from tests.stages.support import (
    MODEL,
    Segments,
    a_context,
    a_model,
    a_row,
    a_spec,
    an_extract,
    backend_of,
    enrich,
    kinds,
    until,
)

Ask = Callable[[BaseChatModel], Awaitable[Any]]
WORD = {"title": "Word", "description": "d", "type": "object", "properties": {"word": {"type": "string"}},
        "required": ["word"]}  # fmt: skip


class Word(BaseModel):
    """One word."""

    word: str


class State(TypedDict, total=False):
    text: str
    parts: list[str]
    heard: Annotated[list[str], operator.add]


async def plainly(model: BaseChatModel) -> Any:
    return (await model.ainvoke("hello")).content


async def streaming(model: BaseChatModel) -> Any:
    return "".join([str(chunk.content) async for chunk in model.astream("hello")])


async def in_a_thread(model: BaseChatModel) -> Any:
    return await asyncio.to_thread(lambda: model.invoke("hello").content)


async def in_another_loop(model: BaseChatModel) -> Any:
    return await asyncio.to_thread(lambda: asyncio.run(plainly(model)))


async def with_a_schema(model: BaseChatModel) -> Any:
    return await model.with_structured_output(WORD).ainvoke("hello")


async def with_a_class(model: BaseChatModel) -> Any:
    found = await model.with_structured_output(Word).ainvoke("hello")
    assert isinstance(found, Word)
    return found.word


async def with_tools(model: BaseChatModel) -> Any:
    answer = await model.bind_tools([Word], tool_choice="any").ainvoke("hello")
    return answer.tool_calls[0]["args"]


async def in_nodes(model: BaseChatModel) -> Any:
    async def asking(state: State) -> State:
        return {"heard": [str((await model.ainvoke(state["text"])).content)]}

    def asking_in_a_thread(state: State) -> State:
        return {"heard": [str(model.invoke(state["text"]).content)]}

    builder = StateGraph(State)
    builder.add_node("a", asking)
    builder.add_node("b", asking_in_a_thread)
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    return (await builder.compile().ainvoke({"text": "hello", "heard": []}))["heard"]


async def in_a_subgraph_s_tool(model: BaseChatModel) -> Any:
    @tool
    async def search(q: str) -> str:
        """Search."""
        return str((await model.ainvoke(f"search {q}")).content)

    async def using(state: State) -> State:
        return {"heard": [await search.ainvoke({"q": state["text"]})]}

    inner = StateGraph(State)
    inner.add_node("use", using)
    inner.add_edge(START, "use")
    outer = StateGraph(State)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    return (await outer.compile().ainvoke({"text": "hello", "heard": []}))["heard"]


async def fanned_out(model: BaseChatModel) -> Any:
    async def asking(state: State) -> State:
        return {"heard": [str((await model.ainvoke(state["text"])).content)]}

    builder = StateGraph(State)
    builder.add_node("ask", asking)
    builder.add_conditional_edges(
        START, lambda state: [Send("ask", {"text": part}) for part in state["parts"]], ["ask"]
    )
    builder.add_edge("ask", END)
    return (await builder.compile().ainvoke({"parts": ["a", "b", "c"], "heard": []}))["heard"]


WAYS: list[tuple[Ask, int]] = [
    (plainly, 1), (streaming, 1), (in_a_thread, 1), (in_another_loop, 1), (with_a_schema, 1), (with_a_class, 1),
    (with_tools, 1), (in_nodes, 2), (in_a_subgraph_s_tool, 1), (fanned_out, 3),
]  # fmt: skip


def named(way: Any) -> str:
    return way.__name__ if callable(way) else str(way)


@pytest.fixture
async def chat_openai(server: ModelServer) -> AsyncIterator[BaseChatModel]:
    """LangChain's own OpenAI model, as a user's graph may build it, journalled."""
    langchain_openai, openai = pytest.importorskip("langchain_openai"), pytest.importorskip("openai")
    async with openai.DefaultAsyncHttpxClient() as client:
        model = langchain_openai.ChatOpenAI(
            model="test-model", base_url=server.base_url, api_key=SecretStr("sk-x"), max_retries=0,
            http_async_client=client,
        )  # fmt: skip
        backend = Backend("openai:test-model", b"them", "OPENAI_API_KEY", Limiter(8), lambda usage: 0.0, 5)
        yield as_langchain(journalled(model, backend))


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "ChatOpenAI"])
@pytest.mark.parametrize(("ask", "calls"), WAYS, ids=named)
async def test_every_way_of_calling_is_journalled_and_replayed_for_nothing(
    server: ModelServer, chat_openai: BaseChatModel, ask: Ask, calls: int, theirs: bool
) -> None:
    model = chat_openai if theirs else a_model()
    store = Segments()
    journal = store.journal()
    with a_row(journal) as scope:
        first = await ask(model)
        assert scope.tally.calls == calls
    await journal.close()
    assert server.stats().answered_ok == calls == len(store.records)
    with a_row(store.journal()) as scope:
        assert sorted(map(str, await ask(model))) == sorted(map(str, first))
        assert scope.tally.calls == 0
    assert server.stats().requests == calls


async def test_a_synchronous_call_on_the_batchs_own_loop_is_refused_with_the_way_out(server: ModelServer) -> None:
    with a_row(Segments().journal()), pytest.raises(RuntimeError, match=r"await model\.ainvoke"):
        a_model().invoke("x")


async def test_outside_a_row_a_model_is_as_it_was(server: ModelServer) -> None:
    assert (await a_model().ainvoke("hello")).content


async def test_isinstance_and_the_class_of_the_model_stay(chat_openai: BaseChatModel) -> None:
    """Of a provider's own class. Models on our wires are LangChain's for graphs of users alone."""
    from langchain_openai import ChatOpenAI

    assert isinstance(chat_openai, ChatOpenAI)
    assert as_langchain(chat_openai) is chat_openai
    assert isinstance(a_model(), BaseChatModel)


async def test_langsmith_is_told_the_names_of_the_spec(chat_openai: BaseChatModel) -> None:
    shown = a_model(name="openai:test-model")._get_ls_params()
    assert (shown["ls_provider"], shown["ls_model_name"], shown["ls_model_type"]) == ("openai", "test-model", "chat")


async def test_a_graph_of_a_user_s_gets_several_models_as_one(server: ModelServer) -> None:
    """In LangChain's class, too, and each answer is kept once: not by LangChain's cache as well."""
    spec = a_spec({"uses": "x:y", "output": {"a": "str"}, "model": {"try": [MODEL, "openai:other-model"]}})
    model = as_langchain(build_model(spec.stages[0].model["main"], spec.stages[0], spec, ModelServices()))
    journal_own_models()
    store = Segments()
    journal = store.journal()
    with a_row(journal) as scope:
        assert await plainly(model) == (await model.with_retry().ainvoke("hello")).content
        assert await with_tools(model)
        assert scope.tally.calls == 3
    await journal.close()
    assert server.stats().requests == 3 == len(store.records)


# What is the same request ------------------------------------------------------------------------------------------


async def digest_of(ask: Ask, model: BaseChatModel) -> tuple[str, ...]:
    store = Segments()
    journal = store.journal()
    with a_row(journal) as scope:
        await ask(model)
        found = tuple(request for request, _ in scope.calls)
    await journal.close()
    return found


async def test_two_classes_of_one_name_do_not_share_an_answer(chat_openai: BaseChatModel) -> None:
    one, other = create_model("Out", word=(str, ...)), create_model("Out", level=(int, ...))
    for model in (a_model(), chat_openai):
        with a_row(Segments().journal()):
            first = await model.with_structured_output(one).ainvoke("hello")
            second = await model.with_structured_output(other).ainvoke("hello")
        assert set(first.model_fields_set) == {"word"}  # type: ignore[union-attr]
        assert set(second.model_fields_set) == {"level"}  # type: ignore[union-attr]


async def test_how_a_call_is_made_does_not_change_the_request_and_what_is_asked_does(server: ModelServer) -> None:
    plain = await digest_of(plainly, a_model())
    for params in ({"timeout": 9}, {"max_retries": 3}, {"headers": {"X": "y"}}, {"api_key": "other"}):
        assert await digest_of(plainly, a_model(params=params)) == plain
    assert await digest_of(plainly, a_model(call_timeout="9s")) == plain
    others = [
        await digest_of(plainly, a_model(params={"temperature": 0.5})),
        await digest_of(plainly, a_model(name="openai:other")),
        await digest_of(plainly, a_model(params={"base_url": f"{server.base_url}/"})),
        await digest_of(with_a_schema, a_model()),
        await digest_of(with_a_class, a_model()),
        await digest_of(lambda model: model.ainvoke("hello", stop=["x"]), a_model()),
        await digest_of(lambda model: model.ainvoke([HumanMessage("hello", name="ann")]), a_model()),
        await digest_of(
            lambda model: model.ainvoke([HumanMessage("hello"), ToolMessage("x", tool_call_id="1")]), a_model()
        ),
    ]
    assert len({plain, *others}) == len(others) + 1


async def test_the_same_request_twice_within_a_row_is_two_calls(server: ModelServer) -> None:
    with a_row(Segments().journal()) as scope:
        await plainly(a_model())
        await plainly(a_model())
    assert server.stats().requests == 2
    assert [ordinal for _, ordinal in scope.calls] == [0, 1]


async def test_identical_requests_of_rows_in_flight_share_one_call(server: ModelServer) -> None:
    server.script({"latency_ms": 50})
    shared, model, store = Shared(), a_model(), Segments()

    async def row(at: int) -> int:
        journal = store.journal()
        with a_row(journal, id=f"row-{at}", shared=shared) as scope:
            await plainly(model)
        await journal.close()
        return scope.tally.calls_reused

    reused = await asyncio.gather(*(row(at) for at in range(5)))
    assert server.stats().requests == 1
    assert sum(reused) == 4
    records = [record for record in store.records if isinstance(record, CallRecord)]
    assert len(records) == 5  # each batch's journal has it
    assert len({record.nonce for record in records}) == 1  # and it was paid for once


async def test_who_shares_a_call_asks_again_when_the_first_is_cancelled(server: ModelServer) -> None:
    server.script({"latency_ms": 100})
    shared, model = Shared(), a_model()

    async def row(at: int) -> Any:
        with a_row(Segments().journal(), id=f"row-{at}", shared=shared):
            return await plainly(model)

    tasks = [asyncio.create_task(row(at)) for at in range(4)]
    await until(lambda: server.stats().in_flight == 1)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks[1:])
    assert all(answers)
    assert server.stats().requests == 2


async def test_an_answer_of_this_row_in_this_run_is_no_reuse(server: ModelServer) -> None:
    store = Segments()
    journal = store.journal()
    with a_row(journal):
        await plainly(a_model())
    await journal.close()
    for run, id, reused in (("run-1", "row-0", 0), ("run-2", "row-0", 1), ("run-1", "row-1", 1)):
        with a_row(store.journal(), run=run, id=id) as scope:
            await plainly(a_model())
        assert scope.tally.calls_reused == reused


async def test_usage_price_and_request_id_are_in_the_record(server: ModelServer) -> None:
    store = Segments()
    journal = store.journal()
    with a_row(journal):
        await plainly(a_model())
    await journal.close()
    [record] = store.records
    assert isinstance(record, CallRecord)
    [call] = server.calls()
    assert record.usage == {"input": call.usage["prompt_tokens"], "output": call.usage["completion_tokens"]}
    assert record.request_id is not None
    assert record.request_id.startswith("req-1-")
    assert record.cost_usd is None  # nobody knows the price of test-model


# Failures ----------------------------------------------------------------------------------------------------------


async def test_transient_failures_reject_nothing_and_take_five_attempts_at_most(server: ModelServer) -> None:
    server.script({"rules": [{"action": "error", "status": 500, "rate": 0.2, "draw": "request"}]})
    outcome = await enrich(an_extract(), [f"row {at}" for at in range(60)])
    assert kinds(outcome) == ["ok"] * 60
    attempts: dict[str, int] = {}
    for call in server.calls():
        attempts[call.digest] = attempts.get(call.digest, 0) + 1
    assert len(attempts) == 60
    assert max(attempts.values()) <= 5
    assert server.stats().max_ok_per_content == 1


async def test_retry_after_is_a_minimum_for_every_row(server: ModelServer) -> None:
    server.script(
        {"rules": [{"action": "error", "status": 429, "headers": {"Retry-After": "1"}, "times": 1}], "latency_ms": 10}
    )
    outcome = await enrich(an_extract(limits={"rows_in_flight": 1}), ["a", "b", "c"])
    assert kinds(outcome) == ["ok"] * 3
    first, *others = server.calls()
    assert first.status == 429
    assert first.t_end is not None
    assert all(call.t_start - first.t_end >= 0.99 for call in others)


async def test_a_long_retry_after_is_handed_up_at_once_and_nobody_calls_meanwhile(server: ModelServer) -> None:
    server.script({"rules": [{"action": "error", "status": 429, "headers": {"Retry-After": "3600"}}]})
    services = ModelServices()
    outcome = await enrich(an_extract(services), [f"row {at}" for at in range(30)])
    assert isinstance(outcome.stopped, Waiting)
    assert 3500 < outcome.stopped.seconds <= 3600
    before = server.stats().requests
    assert before <= 8
    other = await enrich(an_extract(services), ["another batch"])
    assert isinstance(other.stopped, Waiting)
    assert other.stopped.seconds > 3500
    assert server.stats().requests == before


async def test_an_outage_is_a_wait_and_rejects_nothing(server: ModelServer) -> None:
    server.script({"rules": [{"action": "reset"}]})
    context = a_context()
    outcome = await enrich(an_extract(), ["a", "b"], context)
    assert isinstance(outcome.stopped, Waiting)
    assert outcome.records == [None, None]
    assert context.tally.unknown > 0  # a connection that was cut may have been billed


async def test_a_hanging_call_is_cut_at_its_timeout_and_its_outcome_is_unknown(server: ModelServer) -> None:
    server.script({"rules": [{"action": "hang", "times": 1}]})
    context = a_context()
    started = time.monotonic()
    outcome = await enrich(an_extract(params={"timeout": 0.3}), ["a"], context)
    assert kinds(outcome) == ["ok"]
    assert time.monotonic() - started < 2
    assert context.tally.unknown == 1


@pytest.mark.parametrize("code", ["invalid_api_key", "insufficient_quota", "permission_denied", "model_not_found"])
async def test_what_no_call_could_change_stops_the_batch_with_its_answers_kept(server: ModelServer, code: str) -> None:
    server.script({"rules": [{"match": "bad", "action": "error", "code": code}], "latency_ms": 30})
    store = Segments()
    outcome = await enrich(an_extract(), ["good 1", "bad", *(f"good {at}" for at in range(2, 60))], a_context(store))
    assert isinstance(outcome.stopped, FatalModelError)
    assert not outcome.finished
    stats = server.stats()
    assert stats.requests <= 20
    calls = [record for record in store.records if isinstance(record, CallRecord)]
    assert len(calls) == stats.answered_ok > 0  # those in flight were let finish, and are journalled


async def test_a_400_costs_one_call_and_its_row_only(server: ModelServer) -> None:
    server.script({"rules": [{"match": "poison", "action": "error", "status": 400}]})
    outcome = await enrich(an_extract(), ["a", "poison", "b"])
    assert kinds(outcome) == ["ok", "bad_request", "ok"]
    assert server.stats().requests == 3


async def test_a_row_that_is_over_gets_no_more_answers(server: ModelServer) -> None:
    model = a_model()
    with a_row(Segments().journal()):
        late = asyncio.create_task(asyncio.sleep(0.01))
        asked = asyncio.create_task(_after(late, model))
    with pytest.raises(Exception, match="is over"):
        await asked
    assert server.stats().requests == 0


async def _after(first: "asyncio.Task[None]", model: BaseChatModel) -> Any:
    await first
    return await model.ainvoke("too late")


async def test_a_row_error_that_a_graph_handles_is_its_own_affair(server: ModelServer) -> None:
    server.script({"rules": [{"match": "poison", "action": "error", "status": 400}]})
    with a_row(Segments().journal()) as scope:
        with pytest.raises(RowError):
            await a_model().ainvoke("poison")
        assert scope.stop is None
        assert (await a_model().ainvoke("fallback")).content


async def test_extract_is_replayed_after_a_crash_without_a_call(server: ModelServer) -> None:
    store, stage = Segments(), an_extract()
    await enrich(stage, ["a", "b"], a_context(store, strict=True))
    calls_only = Segments([data for data in store.data if b'"k":"call"' in data])
    context: BatchContext = a_context(calls_only)
    outcome = await enrich(stage, pl.DataFrame({"text": ["a", "b"]}), context)
    assert kinds(outcome) == ["ok", "ok"]
    assert server.stats().requests == 2
    assert (context.tally.calls, context.tally.calls_reused) == (0, 0)


async def test_only_an_answer_that_was_cut_off_is_asked_again_under_another_cap(server: ModelServer) -> None:
    server.script({"rules": [{"match": "long", "action": "length"}]})
    store = Segments()
    for cap, requests in ((200, 2), (200, 2), (600, 3), (600, 3), (1, 5)):
        for text in ("short", "long"):
            journal = store.journal()
            with a_row(journal) as scope:
                await a_model(params={"max_tokens": cap}).ainvoke(text)
                assert set(scope.calls) <= journal.known.calls.keys(), "a reject voids what it was made of"
            await journal.close()
        assert server.stats().requests == requests, f"a cap of {cap}"


async def test_the_cap_of_an_answer_is_no_part_of_what_is_asked(chat_openai: BaseChatModel) -> None:
    plain = await digest_of(plainly, a_model())
    for params in ({"max_tokens": 300}, {"max_completion_tokens": 300}, {"extra_body": {"max_tokens": 300}}):
        assert await digest_of(plainly, a_model(params=params)) == plain
    assert await digest_of(lambda model: model.ainvoke("hello", max_tokens=300), a_model()) == plain


async def test_an_answer_of_versions_that_digested_the_cap_is_found_still(server: ModelServer) -> None:
    store, params = Segments(), {"max_tokens": 300}
    before = a_model(params=params)
    backend = backend_of(before)
    object.__setattr__(backend, "identity", backend.capped_identity)
    for model in (before, a_model(params=params)):
        journal = store.journal()
        with a_row(journal):
            await plainly(model)
        await journal.close()
    assert server.stats().requests == 1
