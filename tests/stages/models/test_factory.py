"""From `provider:name` to a model, and the limits that all models of a key share."""

import asyncio
import sys
from typing import Any

import pytest

from schemas.errors import SpecError
from schemas.spec.sections import ModelChoice, Price
from stages.limits.limiter import Blocked, Limiter, Limiters
from stages.limits.prices import pricer
from stages.models.langchain.face import LangChainModel
from stages.models.settings.choice import ModelServices, missing_key, model_identity
from stages.models.wires.transport import ProviderChatModel
from tests.stages.support import a_model


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY",
                 "GEMINI_API_KEY"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def test_the_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_key("openai:gpt-5-mini") == "OPENAI_API_KEY"
    assert missing_key("anthropic:claude") == "ANTHROPIC_API_KEY"
    assert missing_key("offline:lexical") is None
    assert missing_key("ollama:llama") is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
    assert missing_key("openai:x") is None
    monkeypatch.setenv("GEMINI_API_KEY", "x")
    assert missing_key("google_genai:gemini") is None


def our(params: dict[str, Any]) -> ProviderChatModel:
    model = a_model(params=params)
    assert isinstance(model, LangChainModel)
    assert isinstance(model.inner, ProviderChatModel)
    return model.inner


def test_parameters_of_the_connection_are_not_sent() -> None:
    model = our(
        {"temperature": 0, "timeout": 7, "max_retries": 4, "headers": {"A": "b"}, "api_key": "sk-mine",
         "base_url": "http://x/v1", "extra_body": {"top_k": 3}}
    )  # fmt: skip
    assert model.params == {"temperature": 0, "top_k": 3}
    assert model.timeout_s == 7
    assert model.headers == {"A": "b"}
    assert model.base_url == "http://x/v1"
    assert model.api_key is not None
    assert model.api_key.get_secret_value() == "sk-mine"


def test_a_longer_timeout_of_a_model_is_not_cut_by_the_specs() -> None:
    assert our({"timeout": 600})._tandem.timeout_s == 600  # type: ignore[attr-defined]
    assert our({})._tandem.timeout_s == 60  # type: ignore[attr-defined]


def test_max_tokens_has_the_name_that_openai_insists_on() -> None:
    assert our({"max_tokens": 5}).params == {"max_completion_tokens": 5}
    assert our({"max_tokens": 5, "base_url": "http://x/v1"}).params == {"max_tokens": 5}


def test_the_identity_covers_base_url_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = ModelChoice(name="openai:x", params={"top_p": 1})
    plain = model_identity(choice, {"temperature": 0})
    assert model_identity(choice, {"temperature": 0, "timeout": 5, "api_key": "k"}) == plain
    assert model_identity(choice, {"temperature": 1}) != plain
    monkeypatch.setenv("OPENAI_BASE_URL", "http://x/v1")
    assert model_identity(choice, {"temperature": 0}) != plain


@pytest.mark.parametrize(
    ("name", "package"),
    [("ollama:llama", "langchain_ollama"), ("bedrock:claude-x", "langchain_aws")],
)
def test_a_provider_without_its_package_names_the_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were absent
    with pytest.raises(SpecError, match="not installed") as caught:
        a_model(name=name)
    assert "pip install 'tandem-pipeline[" in caught.value.hint


def test_prices_come_from_the_spec_or_from_the_package_or_are_unknown() -> None:
    usage = {"input": 1_000_000, "output": 1_000_000, "cached_input": 500_000}
    given = {"openai:x": Price(input=2, output=4, cached_input=1)}
    assert pricer("openai:x", given)(usage) == pytest.approx(1 + 0.5 + 4)
    assert pricer("offline:lexical", {})(usage) == 0
    assert pricer("openai:no-such-model", {})(usage) is None
    known = pricer("openai:gpt-4o-mini", {})
    assert (known({"input": 1_000_000, "output": 0}) or 0) > 0
    assert known({"input": 1, "output": 1, "cached_input": 5}) is None  # usage that does not add up is no price


# Limits ------------------------------------------------------------------------------------------------------------


class Load:
    """How many hold a call at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def call(self, limiter: Limiter, seconds: float = 0.002) -> None:
        async with limiter.call():
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(seconds)
            self.now -= 1


async def test_no_more_calls_at_once_than_the_limit() -> None:
    load, limiter = Load(), Limiter(3)
    await asyncio.gather(*(load.call(limiter) for _ in range(30)))
    assert load.most == 3


async def test_two_limits_of_one_key_are_one_and_the_smaller_holds_while_both_are_in_use() -> None:
    limiters, load = Limiters(), Load()
    large, small = limiters.of("k", 8), limiters.of("k", 2)
    assert limiters.of("other", 8) is not large
    await asyncio.gather(*(load.call(one) for _ in range(10) for one in (large, small)))
    assert load.most == 2
    load.most = 0
    await asyncio.gather(*(load.call(large) for _ in range(30)))
    assert load.most == 8  # nobody uses the small one any more


async def test_a_smaller_limit_that_arrives_later_lets_the_others_drain_first() -> None:
    limiters, load = Limiters(), Load()
    large, small = limiters.of("k", 8), limiters.of("k", 2)
    many = [asyncio.create_task(load.call(large, 0.01)) for _ in range(20)]
    await asyncio.sleep(0.001)
    few = [asyncio.create_task(load.call(small, 0.01)) for _ in range(4)]
    await asyncio.sleep(0.012)
    load.most = 0
    await asyncio.gather(*many, *few)
    assert load.most <= 2


async def test_places_are_taken_in_turn_and_a_cancelled_waiter_loses_none() -> None:
    limiter, order = Limiter(1), []

    async def hold(name: str) -> None:
        async with limiter.call():
            order.append(name)
            await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(hold(name)) for name in "abcde"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c", "e"]
    await asyncio.wait_for(hold("f"), 1)


async def test_one_who_is_cancelled_just_as_the_turn_comes_passes_it_on() -> None:
    limiter = Limiter(1)
    held = limiter.call()
    await held.__aenter__()
    waiting = [asyncio.create_task(Load().call(limiter)) for _ in range(2)]
    await asyncio.sleep(0)
    await held.__aexit__(None, None, None)  # the turn is given to the first, which has not run yet
    waiting[0].cancel()
    await asyncio.wait_for(waiting[1], 1)
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_nobody_calls_before_a_block_is_over() -> None:
    limiter, loop = Limiter(4), asyncio.get_running_loop()
    limiter.block(0.1)
    started = loop.time()
    await asyncio.gather(*(Load().call(limiter) for _ in range(4)))
    assert loop.time() - started >= 0.1


async def test_a_block_longer_than_ones_patience_is_told_at_once() -> None:
    services = ModelServices()
    services.limiters.of("k", 4).block(3600)
    with pytest.raises(Blocked) as caught:
        async with services.limiters.of("k", 9).call(patience_s=60):
            pass
    assert 3599 < caught.value.seconds <= 3600
