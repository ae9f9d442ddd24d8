"""Flex: asked as such, waited for while it has no room, then asked at the standard price; priced as the answer says."""

import pytest
from langchain_core.messages import HumanMessage

from schemas.spec.sections import Price
from stages.contract import GraphStage
from stages.journal.records import CallRecord
from stages.limits.prices import ModelPrice, tier_price
from stages.models import calls
from stages.models.answers.answerer import answerer_of
from stages.models.flex import Flex
from tests.harness.model_server import ModelServer
from tests.stages.models.wires.referee import a_referee, ask
from tests.stages.support import MODEL, Segments, a_context, an_extract, enrich, kinds

NO_ROOM = {"code": "resource_unavailable", "message": "Resource unavailable: no flex capacity", "type": "x"}
_FULL = {"sends": "service_tier", "status": 429, "body": {"error": NO_ROOM}}


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BACKOFF_S", 0.01)


def a_flex_stage(patience: str) -> GraphStage:
    return an_extract(model={"name": MODEL, "tier": "flex"}, limits={"flex_patience": patience})


def _paid(store: Segments) -> list[CallRecord]:
    return [record for record in store.records if isinstance(record, CallRecord) and record.raw is not None]


async def test_a_flex_call_is_priced_as_the_answer_names_its_tier(server: ModelServer) -> None:
    store, stage = Segments(), a_flex_stage("15m")
    assert kinds(await enrich(stage, ["a", "b"], a_context(store))) == ["ok", "ok"]
    assert [call.by and call.by["tier"] for call in _paid(store)] == ["flex", "flex"]


@pytest.mark.parametrize("says", ["in its usage", "in a header"])
async def test_gemini_names_the_tier_of_an_answer_in_two_places(says: str) -> None:
    tier = {} if says == "in a header" else {"serviceTier": "FLEX"}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, **tier}
    answer = {
        "candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}], "usageMetadata": usage,
    }  # fmt: skip
    headers = {"X-Gemini-Service-Tier": "flex"} if says == "in a header" else {}
    async with a_referee() as referee:
        referee.next = [(200, answer, headers)]
        message = await ask(referee, "google_genai:gemini-2.5-flash", [HumanMessage("Hm.")])
    assert answerer_of(message.response_metadata, "")["tier"] == "flex"


async def test_flex_without_room_is_waited_out(server: ModelServer) -> None:
    server.script({"rules": [{**_FULL, "times": 2}]})
    store = Segments()
    assert kinds(await enrich(a_flex_stage("15m"), ["a"], a_context(store))) == ["ok"]
    assert [call.by and call.by["tier"] for call in _paid(store)] == ["flex"]
    assert server.stats().by_status == {429: 2, 200: 1}


async def test_after_its_patience_a_call_is_asked_at_the_standard_price(server: ModelServer) -> None:
    server.script({"rules": [_FULL]})
    store = Segments()
    assert kinds(await enrich(a_flex_stage("0s"), ["a", "b", "c"], a_context(store))) == ["ok"] * 3
    assert [(call.by or {}).get("tier") for call in _paid(store)] == [None] * 3
    assert server.stats().by_status[429] <= 3


def test_patience_counts_from_the_first_refusal_and_ends_with_an_answer() -> None:
    now = [0.0]
    flex = Flex(patience_s=60, clock=lambda: now[0])
    flex.record_full()
    now[0] = 59
    flex.record_full()
    assert flex.may_have_room()
    flex.record_answer()
    now[0] = 100
    flex.record_full()
    assert flex.may_have_room()
    now[0] = 160
    flex.record_full()
    assert not flex.may_have_room()
    now[0] = 460
    assert flex.may_have_room()


@pytest.mark.parametrize("tier", ["flex", "batch"])
@pytest.mark.parametrize("name", ["openai:gpt-5-mini", "anthropic:claude-haiku-4-5", "google_genai:gemini-2.5-flash"])
def test_flex_and_batch_cost_half(name: str, tier: str) -> None:
    usage = {"input": 1_000_000, "output": 100_000}
    standard = ModelPrice(name, None)
    assert tier_price(standard, tier)(usage) == pytest.approx((standard(usage) or 0) / 2)  # type: ignore[arg-type]
    own = ModelPrice(name, Price(input=2, output=10))
    assert tier_price(own, tier)(usage) == pytest.approx(1.5)  # type: ignore[arg-type]
