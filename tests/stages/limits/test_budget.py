"""Money around a call: what is set aside, what is sent along, what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas.errors import BudgetReached, RowError
from schemas.spec.sections import ModelChoice, Price
from stages.journal.records import CallRecord
from stages.limits.budget import DEFAULT_CAP, Amount, CallSizes, amount_of, cap_in, most_of
from stages.limits.prices import pricer
from stages.models.failures.errors import Waiting
from stages.models.settings.parameters import default_cap
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_model, a_row


@dataclass
class Recorded:
    """A budget that remembers. `fits`: how many calls may be made, and of how many tokens at most."""

    fits: int = 100
    tokens: int = 10**9
    said: list[Any] = field(default_factory=list)
    tight: bool = False
    limited: bool = True

    async def reserve(self, most: Amount) -> Held:
        if not self.fits or most.tokens > self.tokens:
            raise BudgetReached("nothing is left", needed=most)
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


async def asked(budget: Recorded, params: dict[str, Any] | None = None, text: str = "a question") -> None:
    with a_row(Segments().journal()) as scope:
        scope.budget = budget
        await a_model(params=params).ainvoke(text)


async def test_an_upper_bound_is_set_aside_before_a_call_and_settled_to_what_it_was(server: ModelServer) -> None:
    budget = Recorded()
    await asked(budget, {"max_tokens": 50})
    reserve, sending, settle, close = budget.said
    (call,) = server.calls()
    assert call.usage is not None
    spent = call.usage["prompt_tokens"] + call.usage["completion_tokens"]
    assert (sending, settle[0], settle[2], close) == ("sending", "settle", spent, "close")
    assert spent < reserve[1].tokens <= 64 * 4 + 50


async def test_the_provider_is_held_to_the_cap_that_was_counted_with(server: ModelServer) -> None:
    """The spec's where it has one, else a stated default; without a budget nothing is added."""
    await asked(Recorded(), {"max_tokens": 50})
    await asked(Recorded(), text="another")
    with a_row(Segments().journal()):
        await a_model().ainvoke("a third")
    assert [call.cap for call in server.calls()] == [50, DEFAULT_CAP, None]


@pytest.mark.parametrize(
    ("model", "params", "cap"),
    [
        ("openai:llama", {}, 4_096),
        ("openai:gpt-4.1", {}, 4_096),
        ("openai:gpt-4o-2024-05-13", {"reasoning_effort": "none"}, 4_096),
        ("openai:gpt-5-mini", {}, 4_096 + 12_288),
        ("openai:gpt-5-mini", {"reasoning_effort": "minimal"}, 4_096 + 1_024),
        ("openai:gpt-5.1", {}, 4_096),
        ("openai:gpt-5.1", {"reasoning_effort": "high"}, 4_096 + 28_672),
        ("anthropic:claude-haiku-4-5", {}, 4_096),
        ("anthropic:claude-haiku-4-5", {"reasoning_effort": "max"}, 64_000),
        ("anthropic:claude-haiku-4-5", {"thinking_budget": 9_000}, 13_096),
        ("google_genai:gemini-2.5-flash", {}, 4_096 + 28_672),
        ("google_genai:gemini-2.5-flash", {"reasoning_effort": "none"}, 4_096),
    ],
)
def test_the_default_cap_leaves_room_to_think(model: str, params: dict[str, Any], cap: int) -> None:
    assert default_cap(ModelChoice(name=model, params=params), {}) == cap


async def test_the_default_cap_does_not_change_what_is_asked(server: ModelServer) -> None:
    """A run with a budget takes the answers of one without."""
    segments = Segments()
    first = segments.journal()
    with a_row(first):
        await a_model().ainvoke("a question")
    await first.close()
    budget = Recorded()
    with a_row(segments.journal(), run="run-2") as scope:
        scope.budget = budget
        await a_model().ainvoke("a question")
    assert not budget.said
    assert server.stats().requests == 1


async def test_a_call_that_does_not_fit_is_not_made(server: ModelServer) -> None:
    with pytest.raises(BudgetReached):
        await asked(Recorded(fits=0))
    assert server.stats().requests == 0


@pytest.mark.parametrize(
    ("rule", "error", "said"),
    [
        ({"action": "error", "status": 400}, RowError, ["sending", "unbilled", "close"]),
        ({"action": "oversized", "mb": 2}, RowError, ["sending", "close"]),
    ],
)
async def test_what_was_not_billed_is_given_back_and_what_may_be_is_not(
    server: ModelServer, rule: dict[str, Any], error: type[Exception], said: list[str]
) -> None:
    server.script({"rules": [{"match": "question", **rule}]})
    budget = Recorded()
    with pytest.raises(error):
        await asked(budget)
    assert budget.said[1:] == said


async def test_each_attempt_is_set_aside_anew(server: ModelServer) -> None:
    server.script({"rules": [{"match": "question", "action": "error", "status": 500}]})
    budget = Recorded()
    with pytest.raises(Waiting):
        await asked(budget)
    assert [said for said in budget.said if said == "unbilled"] == ["unbilled"] * 5


async def test_a_smaller_cap_is_sent_once_the_default_one_does_not_fit(server: ModelServer) -> None:
    """By far longer than any answer so far; before answers were seen nobody knows what that is."""
    budget, model, segments = Recorded(), a_model(), Segments()
    journal = segments.journal()
    with a_row(journal) as scope:
        scope.budget = budget
        for number in range(8):
            await model.ainvoke(f"question {number}")
        await journal.flush()
        budget.tokens = 1_000
        await model.ainvoke("one more")
        assert budget.tight
        longest = max(call.usage["completion_tokens"] for call in server.calls())
        caps = [call.cap for call in server.calls()]
        assert caps[:-1] == [DEFAULT_CAP] * 8
        assert caps[-1] is not None
        assert 4 * longest <= caps[-1] < 1_000
        budget.tokens = 10
        with pytest.raises(BudgetReached):
            await model.ainvoke("the last")
    with a_row(segments.journal(), run="run-2") as scope:  # another process, which finds those answers
        scope.budget = Recorded(tokens=1_000)
        await a_model().ainvoke("two more")
    with pytest.raises(BudgetReached):
        await asked(Recorded(tokens=1_000), text="of which nothing is known")


async def test_an_answer_that_the_smaller_cap_cut_off_is_no_answer(server: ModelServer) -> None:
    """It is asked again under a higher budget, rather than rejected or kept."""
    budget, model, segments = Recorded(), a_model(), Segments()
    journal = segments.journal()
    with a_row(journal) as scope:
        scope.budget = budget
        for number in range(8):
            await model.ainvoke(f"question {number}")
        server.script({"rules": [{"match": "one more", "action": "length"}]})
        budget.tokens = 1_000
        with pytest.raises(BudgetReached) as caught:
            await model.ainvoke("one more")
        assert caught.value.needed[1] > DEFAULT_CAP
        assert isinstance(scope.stop, BudgetReached)
    await journal.close()
    last = segments.records[-1]
    assert isinstance(last, CallRecord)
    assert last.raw is None
    assert budget.said[-2][0] == "settle"


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


def test_what_was_seen_bounds_what_is_read() -> None:
    seen = CallSizes()
    for size in range(100, 107):
        seen.note(size, {"input": size // 4, "output": 30})
    assert (seen.most_read(1_000), seen.tight_cap()) == (1_000, None)
    seen.note(100, {"input": 40, "output": 50})
    assert (seen.most_read(1_000), seen.tight_cap()) == (801, 256)
    seen.note(100, {"input": 90, "output": 1_000})
    assert (seen.most_read(1_000), seen.tight_cap()) == (1_000, None)


@pytest.mark.parametrize(
    ("said", "cap"), [({}, None), ({"num_predict": 7}, 7), ({"max_tokens": 9, "max_completion_tokens": 8}, 8)]
)
def test_a_cap_is_found_under_any_of_its_names(said: dict[str, Any], cap: int | None) -> None:
    assert cap_in(said) == cap
