"""Several models for a role: what any of them has answered is used, the first that can answer is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from stages.contract import GraphStage
from stages.execution.attempt import StageOutcome
from stages.journal.records import CallRecord, RowRecord
from stages.models import calls
from stages.models.failures.errors import Waiting
from stages.models.settings.choice import ModelServices
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, a_spec, an_extract, enrich, kinds

ERROR: dict[str, Any] = {"action": "error", "status": 500}
TEXTS = [f"text {at}" for at in range(12)]


@pytest.fixture
def second(server: ModelServer) -> Iterator[ModelServer]:
    with ModelServer.start() as other:
        yield other


def model(name: str, server: ModelServer, **params: Any) -> dict[str, Any]:
    return {"name": f"openai:{name}", "params": {"base_url": server.base_url, **params}}


def several(*models: dict[str, Any], after: str = "1s", **changed: Any) -> dict[str, Any]:
    return {"main": {"try": list(models), "fallback_after": after, **changed}}


def stage_of(models: dict[str, Any], **changed: Any) -> GraphStage:
    return an_extract(ModelServices(), model=models, **changed)


async def run(stage: GraphStage, store: Segments, texts: list[str] = TEXTS, number: int = 1) -> StageOutcome:
    return await enrich(stage, texts, a_context(store, run=f"run-{number}"))


def answered(*servers: ModelServer) -> list[int]:
    return [server.stats().answered_ok for server in servers]


def by(outcome: StageOutcome) -> Counter[str]:
    return Counter(name for record in outcome.records if record is not None for name in record.by or {})


async def test_models_behind_the_first_change_nothing(server: ModelServer, second: ModelServer) -> None:
    first, other = model("a", server), model("b", second)
    alone = stage_of({"main": first})
    store = Segments()
    await run(alone, store)
    for models in (several(first, other), several(first, other, model("c", second)), several(first)):
        stage = stage_of(models)
        assert stage.fingerprint == alone.fingerprint
        assert kinds(await run(stage, store, number=2)) == ["ok"] * 12
    assert answered(server, second) == [12, 0]


async def test_what_any_of_them_has_answered_is_looked_up_before_one_is_asked(
    server: ModelServer, second: ModelServer
) -> None:
    first, other = model("a", server), model("b", second)
    store = Segments()
    await run(stage_of({"main": other}), store, TEXTS[:6])
    outcome = await run(stage_of(several(first, other)), store, number=2)
    assert answered(server, second) == [6, 6], "six by the second, from the journal"
    assert by(outcome) == {"openai:a": 6, "openai:b": 6}
    turned = stage_of(several(other, first))
    assert turned.fingerprint != stage_of(several(first, other)).fingerprint
    await run(turned, store, number=3)
    assert answered(server, second) == [6, 6], "a new order finds the single calls"
    await run(stage_of({"main": first}), store, number=4)
    assert answered(server, second) == [6, 6], "one behind the first is removed for nothing"
    outcome = await run(stage_of(several(model("c", server), other)), store, number=5)
    assert answered(server, second) == [12, 6], "what only the former first had answered is asked again"
    assert by(outcome) == {"openai:b": 6, "openai:c": 6}


async def test_the_next_is_asked_while_the_first_is_out_and_the_first_again_when_it_is_back(
    server: ModelServer, second: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.models.fallback._PROBE_EVERY_S", 0.2)
    store = Segments()
    stage = stage_of(several(model("a", server), model("b", second)), limits={"rows_in_flight": 12})
    server.script({"rules": [ERROR]})
    outcome = await run(stage, store)
    assert kinds(outcome) == ["ok"] * 12
    assert by(outcome) == {"openai:b": 12}
    server.script({})
    more: list[str] = []
    found: Counter[str] = Counter()
    while not found["openai:a"]:  # a call now and then tries whether it is back
        more.append(f"more {len(more)}")
        found = by(await run(stage, store, more[-1:], number=2))
        await asyncio.sleep(0.02)
    late = [f"late {at}" for at in range(20)]
    assert by(await run(stage, store, late, number=3)) == {"openai:a": 20}
    before = answered(server, second)
    again = stage_of(several(model("a", server), model("b", second)), version=2)
    texts = [*TEXTS, *more, *late]
    assert kinds(await run(again, store, texts, number=4)) == ["ok"] * len(texts)
    assert answered(server, second) == before, "nothing is asked again, whoever had answered"


async def test_without_outage_in_fallback_on_an_outage_is_waited_for(
    server: ModelServer, second: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_WAIT_S", 0.5)
    monkeypatch.setattr("stages.models.fallback.MAX_WAIT_S", 0.5)
    server.script({"rules": [ERROR]})
    models = several(model("a", server), model("b", second), fallback_on=["refusal"])
    outcome = await run(stage_of(models), Segments())
    assert isinstance(outcome.stopped, Waiting)
    assert answered(second) == [0]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"action": "refusal"}, "refusal"),
        ({"action": "error", "status": 400, "code": "content_filter"}, "refusal"),
        ({"action": "length"}, "truncated"),
        ({"action": "error", "code": "insufficient_quota"}, "quota"),
    ],
)
async def test_the_next_is_asked_for_what_the_first_does_not_answer(
    server: ModelServer, second: ModelServer, rule: dict[str, Any], reason: str
) -> None:
    server.script({"rules": [{"match": "text 3", **rule}]})
    store = Segments()
    outcome = await run(stage_of(several(model("a", server), model("b", second))), store)
    assert kinds(outcome) == ["ok"] * 12
    assert outcome.records[3] is not None
    assert "openai:b" in (outcome.records[3].by or {})
    before = answered(server, second)
    again = stage_of(several(model("a", server), model("b", second)), version=2)
    assert kinds(await run(again, store, number=2)) == ["ok"] * 12
    assert answered(server, second) == before
    others = [one for one in ("outage", "refusal", "truncated", "quota") if one != reason]
    strict = stage_of(several(model("a", server), model("b", second), fallback_on=others))
    alone = await run(strict, Segments(), ["text 3"], number=3)
    assert kinds(alone) != ["ok"]


async def test_where_all_refuse_the_row_is_rejected_as_the_first_refused_it(
    server: ModelServer, second: ModelServer
) -> None:
    for one in (server, second):
        one.script({"rules": [{"match": "text 3", "action": "refusal", "text": f"No, says {one.port}."}]})
    outcome = await run(stage_of(several(model("a", server), model("b", second))), Segments())
    assert Counter(kinds(outcome)) == {"ok": 11, "refusal": 1}
    assert outcome.records[3] is not None
    assert f"No, says {server.port}." in str(outcome.records[3].error)


async def test_endpoints_share_the_calls_and_one_that_fails_is_passed(server: ModelServer, second: ModelServer) -> None:
    for one in (server, second):
        one.script({"latency_ms": 20})
    endpoints = [{"url": server.base_url, "api_key": "k1"}, {"url": second.base_url, "api_key": "k2"}]
    pool = {"main": {"name": "openai:a", "endpoints": endpoints}}
    texts = [f"row {at}" for at in range(60)]
    store = Segments()
    await run(stage_of(pool), store, texts)
    assert min(answered(server, second)) > 15
    assert sum(answered(server, second)) == 60
    turned = {"main": {"name": "openai:a", "endpoints": endpoints[::-1]}}
    await run(stage_of(turned), store, texts, number=2)
    assert sum(answered(server, second)) == 60, "an address that moved finds the single calls"
    server.script({"rules": [ERROR]})
    before = answered(server)
    outcome = await run(stage_of(pool), store, [f"late {at}" for at in range(60)], number=3)
    assert kinds(outcome) == ["ok"] * 60
    assert answered(server) == before


async def test_equal_requests_at_once_are_paid_once_whoever_answers(server: ModelServer, second: ModelServer) -> None:
    for one in (server, second):
        one.script({"latency_ms": 50})
    endpoints = [{"url": server.base_url}, {"url": second.base_url}]
    stage = stage_of({"main": {"name": "openai:a", "endpoints": endpoints}}, prompt="{{ text[:4] }}")
    store = Segments()
    await run(stage, store, [f"same {at}" for at in range(20)])
    assert sum(answered(server, second)) == 1
    records = [record for record in store.records if isinstance(record, RowRecord)]
    named = {call for record in records for call in record.calls}
    assert named == {record.key for record in store.records if isinstance(record, CallRecord)}


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ({"try": []}, "a list of models"),
        ({"try": "openai:a"}, "main"),
        ({"try": ["openai:a"], "params": {}}, "'params' does not go with try"),
        ({"try": ["openai:a", {"try": ["openai:b"]}]}, "each is provider:name"),
        ({"try": ["openai:a", "b"]}, "not provider:name"),
        ({"try": ["openai:a"], "fallback_on": ["boredom"]}, "fallback_on"),
        ({"name": "openai:a", "endpoints": [{"url": "ftp://x"}]}, "endpoints"),
    ],
)
def test_a_spec_says_what_is_wrong_with_its_models(models: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        a_spec({"uses": "extract", "prompt": "x", "output": {"a": "str"}, "model": {"main": models}})
