"""Money around a call: what is set aside, what is sent along, what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas.errors import BudgetReached, RowError
from schemas.spec import Price
from stages.calls import Waiting
from stages.money import DEFAULT_CAP, Amount, amount_of, cap_in, most_of
from stages.prices import pricer
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_model, a_row


@dataclass
class Recorded:
    """A purse that remembers. `fits`: how many calls may be made."""

    fits: int = 100
    said: list[Any] = field(default_factory=list)

    async def reserve(self, most: Amount) -> Held:
        if not self.fits:
            raise BudgetReached("nothing is left")
        self.fits -= 1
        self.said.append(("reserve", most))
        return Held(self.said)


@dataclass
class Held:
    said: list[Any]

    def sending(self) -> None:
        self.said.append("sending")

    def unbilled(self) -> None:
        self.said.append("unbilled")

    def settle(self, usd: float | None, tokens: int) -> None:
        self.said.append(("settle", usd, tokens))

    def close(self) -> None:
        self.said.append("close")


async def asked(purse: Recorded, params: dict[str, Any] | None = None, text: str = "a question") -> None:
    with a_row(Segments().journal()) as scope:
        scope.purse = purse
        await a_model(params=params).ainvoke(text)


async def test_an_upper_bound_is_set_aside_before_a_call_and_settled_to_what_it_was(server: ModelServer) -> None:
    purse = Recorded()
    await asked(purse, {"max_tokens": 50})
    reserve, sending, settle, close = purse.said
    (call,) = server.calls()
    assert call.usage is not None
    spent = call.usage["prompt_tokens"] + call.usage["completion_tokens"]
    assert (sending, settle[0], settle[2], close) == ("sending", "settle", spent, "close")
    assert spent < reserve[1].tokens <= 64 * 4 + 50


async def test_the_provider_is_held_to_the_cap_that_was_counted_with(server: ModelServer) -> None:
    """The spec's where it has one, else a stated default; without a purse nothing is added."""
    await asked(Recorded(), {"max_tokens": 50})
    await asked(Recorded(), text="another")
    with a_row(Segments().journal()):
        await a_model().ainvoke("a third")
    assert [call.cap for call in server.calls()] == [50, DEFAULT_CAP, None]


async def test_the_default_cap_does_not_change_what_is_asked(server: ModelServer) -> None:
    """A run with a budget takes the answers of one without."""
    segments = Segments()
    first = segments.journal()
    with a_row(first):
        await a_model().ainvoke("a question")
    await first.close()
    purse = Recorded()
    with a_row(segments.journal(), run="run-2") as scope:
        scope.purse = purse
        await a_model().ainvoke("a question")
    assert not purse.said
    assert server.stats().requests == 1


async def test_a_call_that_does_not_fit_is_not_made(server: ModelServer) -> None:
    with pytest.raises(BudgetReached):
        await asked(Recorded(fits=0))
    assert server.stats().requests == 0


@pytest.mark.parametrize(
    ("rule", "error", "said"),
    [
        ({"action": "error", "status": 400}, RowError, ["sending", "unbilled", "close"]),
        ({"action": "malformed"}, RowError, ["sending", "close"]),
    ],
)
async def test_what_was_not_billed_is_given_back_and_what_may_be_is_not(
    server: ModelServer, rule: dict[str, Any], error: type[Exception], said: list[str]
) -> None:
    server.script({"rules": [{"match": "question", **rule}]})
    purse = Recorded()
    with pytest.raises(error):
        await asked(purse)
    assert purse.said[1:] == said


async def test_each_attempt_is_set_aside_anew(server: ModelServer) -> None:
    server.script({"rules": [{"match": "question", "action": "error", "status": 500}]})
    purse = Recorded()
    with pytest.raises(Waiting):
        await asked(purse)
    assert [said for said in purse.said if said == "unbilled"] == ["unbilled"] * 5


# Arithmetic ---------------------------------------------------------------------------------------------------------


def test_amounts_are_exact_and_never_rounded_down() -> None:
    assert amount_of(0.000_000_000_1, 1) == Amount(1, 1)
    assert amount_of(None, 3) == Amount(0, 3)
    assert Amount(3, 1) + Amount(1, 1) - Amount(2, 0) == Amount(2, 2)


def test_the_bound_of_a_call_counts_a_token_a_byte_and_the_whole_cap() -> None:
    price = pricer("openai:gpt-5-mini", {})
    most = most_of(price, 1_000, 100)
    assert most.tokens == 1_024 + 100
    assert most == amount_of(price({"input": 1_024, "output": 100}), most.tokens)


def test_dear_reasoning_is_part_of_the_bound_and_never_counted_twice() -> None:
    price = pricer("x:y", {"x:y": Price(input=1, output=2, reasoning=10)})
    usage = {"input": 0, "output": 1_000_000, "reasoning": 400_000}
    assert price(usage) == pytest.approx(0.6 * 2 + 0.4 * 10)
    assert most_of(price, 64, 1_000) == amount_of(0.000_064 + 0.01, 1_064)


@pytest.mark.parametrize(
    ("said", "cap"), [({}, None), ({"num_predict": 7}, 7), ({"max_tokens": 9, "max_completion_tokens": 8}, 8)]
)
def test_a_cap_is_found_under_any_of_its_names(said: dict[str, Any], cap: int | None) -> None:
    assert cap_in(said) == cap
