"""Web search that providers run: one spec, three wires; their SDKs referee what is sent and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import orjson
import pytest
from google import genai
from google.genai import types
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from pipeline.limits.budget import refuse_unpriced
from schemas.errors import FatalModelError, NoAnswer, SpecError
from schemas.spec.sections import Price, Spec
from stages.journal.records import CallRecord
from stages.limits.budget import Amount, most_of
from stages.limits.prices import pricer
from stages.models.answers.usage import usage_of
from stages.models.asked import settings_of
from stages.models.backend import Backend
from stages.models.factory import build_model
from stages.models.failures.errors import may_be_billed
from stages.models.request import ModelRequest, canonical_request
from stages.models.settings.choice import ModelServices
from tests.harness.model_server import ModelServer
from tests.stages.models.wires.referee import Referee, a_referee, ask, declared
from tests.stages.support import Segments, a_context, a_spec, an_extract, answers, enrich, kinds

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
SEARCH: dict[str, Any] = {"type": "web_search"}
SOURCES = [
    {"url": "https://a.example/1", "title": "One", "text": "late"},
    {"url": "https://b.example/2", "title": "Two", "text": "tardy"},
]
QUESTION = f"When? [[search: {orjson.dumps({'queries': ['late', 'tardy'], 'sources': SOURCES}).decode()}]]"
ASK: list[BaseMessage] = [HumanMessage(QUESTION)]
USER: Any = [{"role": "user", "content": QUESTION}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture
async def referee() -> AsyncIterator[Referee]:
    async with a_referee() as found:
        yield found


async def test_anthropics_sdk_sends_the_same_and_reads_our_server(referee: Referee) -> None:
    ours = await ask(referee, "anthropic:claude-haiku-4-5", ASK, {"max_tokens": 9}, tools=[SEARCH])
    async with anthropic.AsyncAnthropic(
        base_url=referee.url, api_key="sk-test", max_retries=0, _strict_response_validation=True
    ) as client:
        theirs = await client.messages.create(
            model="claude-haiku-4-5", messages=USER, max_tokens=9,
            tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        )  # fmt: skip
    assert referee.sent[0][2] == referee.sent[1][2]
    assert theirs.model_extra == {}
    assert theirs.usage.server_tool_use is not None
    assert ours.response_metadata["web_searches"] == theirs.usage.server_tool_use.web_search_requests == 2
    assert ours.response_metadata["citations"] == SOURCES
    assert ours.content == "".join(block.text for block in theirs.content if block.type == "text")


async def test_openais_sdk_sends_the_same_and_reads_our_server(referee: Referee) -> None:
    question = f'{QUESTION} [[answer: "It was tardy, late."]]'
    messages: list[BaseMessage] = [HumanMessage(question)]
    ours = await ask(referee, "openai:gpt-5", messages, {"api": "responses"}, tools=[SEARCH], **declared(SCHEMA))
    async with openai.AsyncOpenAI(base_url=f"{referee.url}/v1", api_key="sk-test", max_retries=0) as client:
        theirs = await client.responses.create(
            model="gpt-5", input=[{"role": "user", "content": question}], store=False, tools=[{"type": "web_search"}],
            include=["reasoning.encrypted_content"], max_tool_calls=8,
            text={"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}},
        )  # fmt: skip
    assert referee.sent[0][2] == referee.sent[1][2]
    searches = [item for item in theirs.output if item.type == "web_search_call"]
    assert [search.action.type for search in searches] == ["search", "search", "open_page"]
    assert ours.response_metadata["web_searches"] == 2
    assert ours.response_metadata["citations"] == SOURCES
    assert ours.content == theirs.output_text


async def test_googles_sdk_sends_the_same_and_reads_our_server(referee: Referee) -> None:
    ours = await ask(referee, "google_genai:gemini-3-pro-preview", ASK, tools=[SEARCH])
    client = genai.Client(api_key="AIza-test", http_options=types.HttpOptions(base_url=referee.url))
    theirs = await client.aio.models.generate_content(
        model="gemini-3-pro-preview", contents=QUESTION,
        config=types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch())]),
    )  # fmt: skip
    await client.aio.aclose()
    client.close()
    assert referee.sent[0][2]["tools"] == referee.sent[1][2]["tools"]
    assert theirs.candidates is not None
    grounding = theirs.candidates[0].grounding_metadata
    assert grounding is not None
    assert len(grounding.web_search_queries or ()) == ours.response_metadata["web_searches"] == 2
    assert ours.response_metadata["citations"] == SOURCES
    assert ours.content == theirs.text


async def test_openais_own_count_of_billed_searches_is_believed(referee: Referee) -> None:
    answer = {
        "id": "resp_1", "object": "response", "model": "gpt-5", "status": "completed", "error": None,
        "output": [{"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search"}}] * 3,
        "usage": {"input_tokens": 1, "output_tokens": 1}, "tool_usage": {"web_search": {"num_requests": 1}},
    }  # fmt: skip
    referee.next = [(200, answer, {})]
    ours = await ask(referee, "openai:gpt-5", ASK, {"api": "responses"}, tools=[SEARCH])
    assert ours.response_metadata["web_searches"] == 1


# What a schema needs beside a search ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "citations", "mode"),
    [
        ("anthropic:claude-haiku-4-5", False, "format"),
        ("anthropic:claude-haiku-4-5", True, "words"),
        ("google_genai:gemini-2.5-flash", False, "words"),
        ("google_genai:gemini-3-pro-preview", True, "format"),
        ("openai:gpt-5", True, "format"),
    ],
)
async def test_a_schema_beside_a_search_is_sent_in_a_mode_that_works(
    referee: Referee, model: str, citations: bool, mode: str
) -> None:
    params = {"api": "responses"} if model.startswith("openai:") else {}
    asked = {"citations": True} if citations else {}
    await ask(referee, model, ASK, params, tools=[SEARCH], **declared(SCHEMA), **asked)
    assert len(referee.sent) == 1
    body = referee.body
    in_format = "output_config" in body or "responseJsonSchema" in body.get("generationConfig", {}) or "text" in body
    assert ("format" if in_format else "words") == mode
    assert "citations" not in body
    assert ("must fit this JSON schema" in orjson.dumps(body).decode()) == (mode == "words")


# Pauses of Anthropic's answers ----------------------------------------------------------------------------------------


async def test_an_answer_that_pauses_goes_on_and_is_one_answer_with_one_bill(referee: Referee) -> None:
    pausing = QUESTION.replace('"queries"', '"pauses":2,"queries"')
    ours = await ask(referee, "anthropic:claude-haiku-4-5", [HumanMessage(pausing)], tools=[SEARCH])
    bodies = [body for _, _, body in referee.sent]
    assert [len(body["messages"]) for body in bodies] == [1, 2, 2]
    assert [block["type"] for block in bodies[2]["messages"][1]["content"]] == [
        "server_tool_use", "web_search_tool_result",
    ] * 3  # fmt: skip
    assert isinstance(ours.content, str)
    assert ours.response_metadata["finish_reason"] == "end_turn"
    assert ours.response_metadata["web_searches"] == 4
    one_turn = await ask(referee, "anthropic:claude-haiku-4-5", ASK, tools=[SEARCH])
    assert ours.usage_metadata is not None
    assert one_turn.usage_metadata is not None
    assert ours.usage_metadata["input_tokens"] > 2 * one_turn.usage_metadata["input_tokens"]


async def test_an_answer_may_pause_ten_times(referee: Referee) -> None:
    pausing = QUESTION.replace('"queries"', '"pauses":10,"queries"')
    ours = await ask(referee, "anthropic:claude-haiku-4-5", [HumanMessage(pausing)], tools=[SEARCH])
    assert ours.response_metadata["finish_reason"] == "end_turn"
    assert len(referee.sent) == 11


async def test_an_answer_that_never_stops_pausing_is_a_reject_and_may_be_billed(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in server.other_providers().items():
        monkeypatch.setenv(variable, value)
    server.reset()
    stage = an_extract(model="anthropic:claude-haiku-4-5", tools=["provider:web_search"])
    context = a_context()
    outcome = await enrich(stage, [QUESTION.replace('"queries"', '"pauses":99,"queries"')], context)
    assert kinds(outcome) == ["endless_answer"]
    assert context.tally.unknown == 1
    assert len(server.calls()) == 11


def a_turn(stop: str, wrote: int, **changed: Any) -> dict[str, Any]:
    """An answer of Anthropic's, or a turn of one that pauses."""
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "stop_reason": stop,
        "content": [{"type": "text", "text": "late"}], "usage": {"input_tokens": 9, "output_tokens": wrote}, **changed,
    }  # fmt: skip


CLAUDE = "anthropic:claude-haiku-4-5"


async def test_each_turn_of_an_answer_that_pauses_has_a_cap_of_its_own(referee: Referee) -> None:
    referee.next = [(200, a_turn("pause_turn", 990), {})] * 4 + [(200, a_turn("end_turn", 990), {})]
    message = await ask(referee, CLAUDE, ASK, {"max_tokens": 1000}, tools=[SEARCH])
    assert usage_of(message, ModelRequest("digest", size=9_000), 1000) == {"input": 45, "output": 4950}


@pytest.mark.parametrize("then", [a_turn("end_turn", 1, content=None), {"id": "msg_2", "stop_reason": "end_turn"}])
async def test_a_pause_after_which_nothing_comes_is_no_answer_and_was_billed(
    referee: Referee, then: dict[str, Any]
) -> None:
    referee.next = [(200, a_turn("pause_turn", 9), {}), (200, then, {})]
    with pytest.raises(NoAnswer) as caught:
        await ask(referee, CLAUDE, ASK, tools=[SEARCH])
    assert may_be_billed(caught.value)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_was_answered_before_a_run_is_stopped_was_billed(referee: Referee, status: int) -> None:
    referee.next = [(200, a_turn("pause_turn", 9), {}), (status, {"error": {"message": "No."}}, {})]
    with pytest.raises(FatalModelError) as caught:
        await ask(referee, CLAUDE, ASK, tools=[SEARCH])
    assert may_be_billed(caught.value)


async def test_blocks_of_a_search_are_given_back_with_results_of_functions(referee: Referee) -> None:
    blocks: list[str | dict[Any, Any]] = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "late"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
            {"type": "web_search_result", "url": "https://a.example", "title": "A", "encrypted_content": "c2Vj"}]},
        {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"word": "late"}},
    ]  # fmt: skip
    called = AIMessage(content=blocks, tool_calls=[{"name": "look_up", "args": {"word": "late"}, "id": "toolu_1"}])
    look_up = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    messages = [*ASK, called, ToolMessage("tardy", tool_call_id="toolu_1")]
    await ask(referee, "anthropic:claude-haiku-4-5", messages, tools=[look_up, SEARCH])
    assert referee.body["messages"][1]["content"] == blocks
    await ask(referee, "anthropic:claude-haiku-4-5", messages)  # the last question of an agent has no tools
    assert [tool["name"] for tool in referee.body["tools"]] == ["look_up", "web_search"]
    for other, tools in (("openai:gpt-5", [look_up, SEARCH]), ("google_genai:gemini-2.5-flash", [look_up])):
        await ask(referee, other, messages, {"api": "responses"} if "openai" in other else {}, tools=tools)
        assert b"web_search_result" not in orjson.dumps(referee.body)


# A stage --------------------------------------------------------------------------------------------------------------

# USD a million tokens in and out, and a thousand searches, as the providers publish them; how many are billed.
MODELS: dict[str, tuple[Any, str, str, str, int]] = {
    "openai": ({"name": "openai:gpt-5-mini", "params": {"api": "responses"}}, "0.25", "2", "10", 2),
    "anthropic": ("anthropic:claude-haiku-4-5", "1", "5", "10", 2),
    "gemini by the prompt": ("google:gemini-2.5-flash", "0.30", "2.50", "35", 1),
    "gemini by the query": ("google:gemini-3-flash-preview", "0.50", "3", "14", 2),
}


@pytest.mark.parametrize("name", MODELS)
async def test_sources_and_cost_are_kept_and_a_second_run_pays_for_nothing(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in server.other_providers().items():
        monkeypatch.setenv(variable, value)
    server.reset()
    model, price_in, price_out, price_search, billed = MODELS[name]
    asked = {"model": model, "output": {"word": "str"}, "tools": ["provider:web_search"]}
    stage = an_extract(citations="sources", **asked)
    rows = [f'{QUESTION} [[answer: {{"word": "tardy, late"}}]]', 'no search [[answer: {"word": "plain"}]]']
    store = Segments()
    outcome = await enrich(stage, rows, a_context(store))
    assert answers(outcome) == [{"word": "tardy, late", "sources": SOURCES}, {"word": "plain", "sources": []}]
    calls = [record for record in store.records if isinstance(record, CallRecord)]
    assert sorted(record.usage.get("web_searches", 0) for record in calls) == [0, billed]
    usage = [call.usage for call in server.calls()]
    read, wrote = (sum(one[kind] for one in usage) for kind in ("prompt_tokens", "completion_tokens"))
    bill = (read * Decimal(price_in) + wrote * Decimal(price_out)) / 1_000_000 + billed * Decimal(price_search) / 1_000
    assert sum(Decimal(str(record.cost_usd)) for record in calls) == pytest.approx(bill, abs=Decimal("1e-12"))
    again = await enrich(an_extract(citations="sources", **asked), rows, a_context(store, run="run-2"))
    assert answers(again) == answers(outcome)
    renamed = await enrich(an_extract(citations="links", **asked), rows, a_context(store, run="run-3"))
    assert [answer["links"] for answer in answers(renamed) if answer] == [SOURCES, []]
    assert len(server.calls()) == 2


async def test_an_answer_of_several_turns_is_known_afterwards_though_it_is_longer_than_the_cap_of_one(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.other_providers()["ANTHROPIC_BASE_URL"])
    server.reset()
    asked: dict[str, Any] = {"model": CLAUDE, "output": {"word": "str"}, "tools": ["provider:web_search"]}
    stages = [an_extract(citations=name, params={"max_tokens": 40}, **asked) for name in ("sources", "links")]
    pausing = QUESTION.replace('"queries"', '"pauses":2,"queries"')
    rows, store = [f'{pausing} [[answer: {{"word": "{"late " * 20}"}}]]'], Segments()
    assert kinds(await enrich(stages[0], rows, a_context(store))) == ["ok"]
    (call,) = [record for record in store.records if isinstance(record, CallRecord)]
    assert call.usage["output"] > 40
    assert kinds(await enrich(stages[1], rows, a_context(store, run="run-2"))) == ["ok"]
    assert len(server.calls()) == 3


async def test_a_search_is_part_of_what_was_asked(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.other_providers()["ANTHROPIC_BASE_URL"])
    server.reset()
    store = Segments()
    model = "anthropic:claude-haiku-4-5"
    plain, searching = an_extract(model=model), an_extract(model=model, tools=["provider:web_search"])
    assert plain.fingerprint != searching.fingerprint
    for number, stage in enumerate((plain, searching, searching)):
        await enrich(stage, ["a letter"], a_context(store, run=f"run-{number}"))
    assert len(server.calls()) == 2


def test_a_price_that_is_unknown_is_not_zero() -> None:
    usage = {"input": 1_000_000, "output": 0, "web_searches": 3}
    own = Price(input=1, output=1)
    assert pricer("openai:gpt-4-turbo", {})(usage) is None
    assert pricer("openai:gpt-4-turbo", {})({**usage, "web_searches": 0}) == 10
    assert pricer("x:y", {"x:y": own})(usage) is None
    assert pricer("x:y", {"x:y": own.model_copy(update={"web_search": 20.0})})(usage) == pytest.approx(1.06)
    assert pricer("anthropic:claude-haiku-4-5", {}, "batch")(usage) == pytest.approx(0.5 + 0.03)


def test_a_budget_needs_the_price_of_searches() -> None:
    def spec(**prices: Any) -> Spec:
        stage = {"uses": "extract", "model": "openai:gpt-5-mini", "prompt": "{{ text }}", "output": {"a": "str"},
                 "tools": ["provider:web_search"]}  # fmt: skip
        found = a_spec(stage, max_cost_usd=1.0)
        return found.model_copy(update={"prices": prices})

    refuse_unpriced(spec())
    refuse_unpriced(spec(**{"openai:gpt-5-mini": Price(input=1, output=1, web_search=5)}))
    other = a_spec(
        {"uses": "extract", "model": "openai:own", "prompt": "{{ text }}", "output": {"a": "str"},
         "tools": ["provider:web_search"], "params": {"api": "responses"}}, max_cost_usd=1.0,
    ).model_copy(update={"prices": {"openai:own": Price(input=1, output=1)}})  # fmt: skip
    with pytest.raises(SpecError, match=r"the price of web searches by 'openai:own' \(stage stage0\) is unknown"):
        refuse_unpriced(other)


def test_a_budget_reserves_what_searches_may_cost() -> None:
    """Also for those that a graph of the user's binds: what is asked tells, not the stage."""

    def most(tools: list[Any], **changed: Any) -> Amount:
        stage = {"uses": "extract", "model": "anthropic:claude-haiku-4-5", "prompt": "{{ text }}",
                 "output": {"a": "str"}, **changed}  # fmt: skip
        spec = a_spec(stage)
        model = build_model(spec.stages[0].model["main"], spec.stages[0], spec, ModelServices())
        backend: Backend = model._tandem  # type: ignore[attr-defined]
        request = canonical_request(backend, ASK, settings_of(None, {"tools": tools}))
        return backend.most_of(64, 10, marked=False, searches=request.searches)

    plain, searching = most([]), most([SEARCH])
    twice = most([SEARCH], params={"max_tool_calls": 2})
    # A cent and 10,000 tokens a search, which may be written to the cache at 1.25 USD a million.
    assert (searching - plain).nanos == pytest.approx(8 * (10_000_000 + 10_000 * 1_250))
    assert (twice - plain).nanos == pytest.approx(2 * (10_000_000 + 10_000 * 1_250))
    assert (searching - plain).tokens == 80_000


def test_a_search_of_unknown_price_costs_its_tokens_at_least() -> None:
    price = pricer("x:y", {"x:y": Price(input=1, output=1)})
    assert most_of(price, 64, 0, searches=1).nanos == pytest.approx((64 + 10_000) * 1_000)


# What check refuses ---------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "bedrock_converse:us.anthropic.claude-haiku-4-5"}, "'bedrock_converse:us.anthropic.claude-haiku-4-5' "
     "has no web search of its provider"),
    ({"model": "offline:lexical"}, "'offline:lexical' has no web search"),
    ({"model": "openai:gpt-4.1-nano"}, "'openai:gpt-4.1-nano' has no web search"),
    ({"model": "anthropic:claude-3-haiku-20240307"}, "'anthropic:claude-3-haiku-20240307' has no web search"),
    ({"model": "google:gemini-1.5-pro"}, "has no web search"),
    ({"model": "openai:gpt-5", "params": {"base_url": "http://u:secret@h/v1"}}, "is at h, and OpenAI searches by its "
     "Responses API"),
    ({"model": "openai:gpt-5", "params": {"api": "chat"}}, "is called by its chat API"),
    ({"model": "openai:gpt-5", "params": {"seed": 1}}, "takes no seed"),
    ({"model": "openai:gpt-5", "reasoning": {"effort": "minimal"}}, "does not search with reasoning"),
    ({"model": {"try": ["openai:gpt-5", "bedrock_converse:x"]}}, "'bedrock_converse:x' has no web search"),
    ({"model": "google:gemini-3-pro-preview", "uses": "agent",
      "tools": ["provider:web_search", "tests.stages.toolbox:stock"]}, "takes no functions beside its web search"),
    ({"model": "openai:gpt-5", "citations": "word"}, "citations = 'word' is declared under output, too"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "sentence"), REFUSED)
def test_what_a_model_cannot_search_with_is_refused_by_name(
    changed: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SpecError) as caught:
        an_extract(**{"tools": ["provider:web_search"], **changed})
    assert sentence in caught.value.message
    assert caught.value.hint
