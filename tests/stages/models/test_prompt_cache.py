"""What all rows' prompts begin with is written once to the provider's cache, and read by all others."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import orjson
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from openai import AsyncOpenAI

from pipeline.bedrock import bedrock_access
from stages.contract import GraphStage
from stages.journal.records import CallRecord
from stages.limits.budget import most_of
from stages.limits.prices import pricer, saved_by_cache
from stages.models import credentials
from stages.models.prompt_cache.first_calls import FirstCalls
from stages.models.prompt_cache.prefix import common, end_of
from stages.models.settings.choice import ModelServices
from stages.models.wires.clients import client_of
from stages.models.wires.facts import Caching, caching_of
from stages.models.wires.marks import with_marks
from tests.harness.model_server import ModelServer
from tests.stages.models.wires.referee import a_referee
from tests.stages.support import Segments, a_context, an_extract, enrich, kinds
from tests.stages.virtual import virtually

LONG = "Sort letters by their tone. " * 800  # 5,600 tokens as we estimate them
HAIKU = "anthropic:claude-haiku-4-5"
BEDROCK = "bedrock_converse:us.anthropic.claude-haiku-4-5-20251001-v1:0"


def letters(count: int) -> list[str]:
    return [f"Letter {at}" for at in range(count)]


def stage_of(server: ModelServer, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> GraphStage:
    for name, value in server.other_providers().items():
        monkeypatch.setenv(name, value)
    changed.setdefault("model", HAIKU)
    changed.setdefault("system", LONG)
    return an_extract(ModelServices(bedrock=bedrock_access), limits={"rows_in_flight": 64}, **changed)


def paid(store: Segments) -> list[CallRecord]:
    return [record for record in store.records if isinstance(record, CallRecord) and record.raw is not None]


def writes(store: Segments) -> int:
    return sum(record.usage.get("cache_write", 0) > 0 for record in paid(store))


@pytest.mark.parametrize("model", [HAIKU, BEDROCK])
async def test_of_200_rows_with_64_in_flight_one_writes_the_cache(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    server.script({"caches": True, "latency_ms": 50})
    store = Segments()
    outcome = await enrich(stage_of(server, monkeypatch, model=model), letters(200), a_context(store))
    assert kinds(outcome) == ["ok"] * 200
    assert writes(store) == 1
    assert sum(record.usage.get("cached_input", 0) > 0 for record in paid(store)) == 199


async def test_what_the_cache_saved_is_the_difference_to_the_bill_without_it(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script({"caches": True})
    store = Segments()
    await enrich(stage_of(server, monkeypatch), letters(20), a_context(store))
    for record in paid(store):
        read, written = record.usage.get("cached_input", 0), record.usage.get("cache_write", 0)
        saved = read * Decimal("0.9") - written * Decimal("0.25")  # of 1 USD a million tokens
        assert Decimal(record.usage["cache_saved"]) == pytest.approx(saved * 1_000, abs=1)


async def test_where_no_cache_is_known_nobody_waits(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for changed in ({"model": "openai:test-model"}, {"system": "Sort."}, {"cache": "off"}):
        server.reset()
        server.script({"latency_ms": 200})
        await enrich(stage_of(server, monkeypatch, **changed), letters(32), a_context())
        assert server.stats().max_in_flight > 8, changed


async def test_cache_off_sends_no_mark_and_changes_no_answer(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script({"caches": True})
    on, off = (stage_of(server, monkeypatch, cache=cache) for cache in ("on", "off"))
    assert on.fingerprint == off.fingerprint
    store = Segments()
    await enrich(off, letters(4), a_context(store))
    assert writes(store) == 0
    again = stage_of(server, monkeypatch, version=2)
    assert kinds(await enrich(again, letters(4), a_context(store, run="run-2"))) == ["ok"] * 4
    assert server.stats().requests == 4, "with a mark the request is the same, and its answer is known"


async def test_a_first_call_that_fails_lets_the_next_one_go_ahead(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script({"caches": True, "latency_ms": 20, "rules": [{"action": "error", "status": 500, "times": 2}]})
    store = Segments()
    outcome = await enrich(stage_of(server, monkeypatch), letters(64), a_context(store))
    assert kinds(outcome) == ["ok"] * 64
    assert writes(store) == 1


async def test_a_server_that_refuses_marks_is_sent_none(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"type": "error", "error": {"type": "invalid_request_error",
            "message": "system.0.cache_control: Extra inputs are not permitted"}}  # fmt: skip
    server.script({"caches": True, "rules": [{"action": "error", "status": 400, "body": body, "times": 1}]})
    store = Segments()
    assert kinds(await enrich(stage_of(server, monkeypatch), letters(4), a_context(store))) == ["ok"] * 4
    assert writes(store) == 0
    assert server.stats().requests == 5


async def test_what_comes_before_the_mark_is_the_same_bytes_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_referee() as referee:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", referee.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        stage = an_extract(model=HAIKU, system=LONG, prompt=f"{'Be kind. ' * 40}\nThe letter: {{{{ text }}}}")
        await enrich(stage, letters(6), a_context())
        bodies = [orjson.dumps(body) for _, _, body in referee.sent]
    begins = {body[: body.rindex(b'"cache_control"')] for body in bodies}
    assert len(bodies) == 6
    assert len(begins) == 1
    assert b"Be kind." in begins.pop(), "what the prompt says before the first value of a row is cached, too"
    turn = orjson.loads(bodies[0])["messages"][0]["content"]
    assert [part["text"] for part in turn] == ["Be kind. " * 40 + "\n", "The letter: Letter 0"]


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openai_is_told_what_to_keep_as_its_sdk_tells_it(monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    messages = [common(SystemMessage(LONG)), HumanMessage("It is late.")]
    async with a_referee() as referee:
        monkeypatch.setattr(credentials, "OPENAI", f"{referee.url}/v1")
        params = {"base_url": credentials.OPENAI, "api_key": "sk-test", "api": api}
        await client_of("openai", "gpt-5.6", params, 30)._agenerate(messages)
        _, _, ours = referee.sent[-1]
        key: Any = ours["prompt_cache_key"]
        options: Any = {"prompt_cache_key": key, "prompt_cache_options": {"mode": "explicit"}}
        kind = "text" if api == "chat" else "input_text"
        turns: Any = [
            {"role": "system",
             "content": [{"type": kind, "text": LONG, "prompt_cache_breakpoint": {"mode": "explicit"}}]},
            {"role": "user", "content": "It is late."},
        ]  # fmt: skip
        async with AsyncOpenAI(base_url=credentials.OPENAI, api_key="sk-test", max_retries=0) as sdk:
            if api == "chat":
                await sdk.chat.completions.create(model="gpt-5.6", messages=turns, stream=False, **options)
            else:
                await sdk.responses.create(model="gpt-5.6", input=turns, store=False, **options)
        assert ours == referee.sent[-1][2]
        await client_of("openai", "gpt-5.6", params, 30, cache=False)._agenerate(messages)
        off = referee.sent[-1][2]
        assert off["prompt_cache_options"] == {"mode": "explicit"}, "without a breakpoint nothing is written"
        assert "prompt_cache_key" not in off
        assert b"breakpoint" not in orjson.dumps(off)
        await client_of("openai", "gpt-5-mini", params, 30)._agenerate(messages)
        assert "prompt_cache_key" in referee.sent[-1][2], "an older model caches by itself"
        assert b"breakpoint" not in orjson.dumps(referee.sent[-1][2])


def test_the_prefix_ends_at_the_last_mark() -> None:
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    assert end_of([SystemMessage("s"), HumanMessage("t")]) is None
    assert end_of([common(SystemMessage("s" * 9)), HumanMessage("t")]) == (0, 9)
    assert end_of([common(SystemMessage("s")), common(HumanMessage("text"), 2)]) == (1, 2)
    assert end_of([SystemMessage("s"), HumanMessage([marked, {"type": "text", "text": "b"}])]) == (1, 1)


def test_a_users_own_mark_stays_the_only_one() -> None:
    marked = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}
    messages = [SystemMessage("s"), HumanMessage([marked])]
    payload = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [marked]}]}
    assert with_marks(payload, messages, Caching("mark", 1_024, 1.25), key=False) == payload


@pytest.mark.parametrize(
    ("provider", "model", "by", "least"),
    [
        ("anthropic", "claude-haiku-4-5", "mark", 4_096),
        ("anthropic", "claude-sonnet-4-5-20250929", "mark", 1_024),
        ("anthropic", "claude-sonnet-9", "mark", 1_024),
        ("bedrock_converse", "us.anthropic.claude-haiku-4-5-20251001-v1:0", "mark", 4_096),
        ("openai", "gpt-4.1-mini", "itself", 1_024),
        ("openai", "gpt-5.4", "itself", 1_024),
        ("openai", "gpt-5.6", "breakpoint", 1_024),
        ("openai", "gpt-6.1-sol", "breakpoint", 1_024),
        ("google_genai", "gemini-2.5-flash", "itself", 2_048),
    ],
)
def test_the_table_knows_where_a_prompt_is_cached(provider: str, model: str, by: str, least: int) -> None:
    found = caching_of(provider, model)
    assert found is not None
    assert (found.by, found.least) == (by, least)


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "llama"), ("openai", "gpt-4"), ("bedrock_converse", "anthropic.claude-3-haiku-20240307-v1:0"),
     ("bedrock_converse", "amazon.nova-pro-v1:0"), ("google_genai", "gemini-2.0-flash")],
)  # fmt: skip
def test_what_the_table_does_not_know_is_not_waited_for(provider: str, model: str) -> None:
    assert caching_of(provider, model) is None


def test_the_bound_of_a_call_holds_what_it_may_write_to_the_cache() -> None:
    price = pricer(HAIKU, {})
    plain, short, hour = (most_of(price, 64_000, 0, cache=cache).nanos for cache in (None, "5m", "1h"))
    assert (plain, short, hour) == (64_000_000, 80_000_000, 128_000_000)


def test_a_cache_without_a_price_saved_nobody_knows_what() -> None:
    assert saved_by_cache(lambda usage: None, {"input": 9, "output": 1, "cached_input": 5}) is None
    assert saved_by_cache(pricer(HAIKU, {}), {"input": 9, "output": 1}) is None
    assert saved_by_cache(pricer(HAIKU, {}), {"input": 1_000, "output": 1, "cache_write": 1_000}) == -250_000


def test_calls_wait_for_the_first_until_patience_is_over_or_it_fails() -> None:
    began: dict[str, float] = {}

    async def call(first: FirstCalls, name: str, seconds: float, *, fails: bool = False) -> None:
        async with first.turn("prefix"):
            began[name] = asyncio.get_running_loop().time()
            await asyncio.sleep(seconds)
            if not fails:
                first.answered("prefix")

    async def scene() -> float:
        loop = asyncio.get_running_loop()
        first, start = FirstCalls(loop.time, patience_s=20), loop.time()
        await asyncio.gather(call(first, "a", 3, fails=True), call(first, "b", 4), *(call(first, at, 1) for at in "cd"))
        assert {name: at - start for name, at in began.items()} == {"a": 0, "b": 3, "c": 7, "d": 7}
        await asyncio.sleep(300)  # a cache that nobody reads is gone
        start = loop.time()
        await asyncio.gather(call(first, "a", 30), call(first, "b", 1), call(first, "c", 1))
        assert {name: began[name] - start for name in "abc"} == {"a": 0, "b": 20, "c": 20}
        return loop.time() - start

    assert virtually(scene()) == 30


def test_a_first_call_that_is_cancelled_lets_the_next_one_go_ahead() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        first, entered = FirstCalls(loop.time), []

        async def call(name: str) -> None:
            async with first.turn("prefix"):
                entered.append(name)
                await asyncio.sleep(5)

        tasks = [asyncio.create_task(call(name)) for name in "ab"]
        await asyncio.sleep(1)
        tasks[0].cancel()
        await asyncio.sleep(1)
        assert entered == ["a", "b"]
        await asyncio.gather(*tasks, return_exceptions=True)

    virtually(scene())
