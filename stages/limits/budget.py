"""Money around a model call: before it an upper bound is set aside, after it what it was is charged.

A token of the request is a byte at least; once answers were seen, half of the fewest bytes that one took. An answer is
no longer than the cap that the provider is held to: `max_tokens` of the spec, or DEFAULT_CAP, which is then sent along;
and once that does not fit any more, a smaller one, by far longer than any answer so far.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel

DEFAULT_CAP = 4_096
NANOS = 1_000_000_000
# The names under which chat models take the cap of an answer.
CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict", "max_tokens_to_sample")
_LEARNED_FROM = 8  # answers, before what they were like is relied on
_LEAST_CAP = 64
_ROUNDED_TO = 64  # tokens: so that few different sizes are priced


class Amount(NamedTuple):
    """USD / 10^9, exact in sums, and tokens."""

    nanos: int = 0
    tokens: int = 0

    def __add__(self, other: object) -> "Amount":
        assert isinstance(other, Amount)
        return Amount(self.nanos + other.nanos, self.tokens + other.tokens)

    def half(self) -> "Amount":
        return Amount(self.nanos // 2, self.tokens // 2)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.nanos - other.nanos, self.tokens - other.tokens)


NOTHING = Amount()


class Reservation(Protocol):
    """What is set aside for one request. A request that went out is charged in full until it is known better."""

    def sending(self) -> None: ...

    def unbilled(self) -> None: ...

    def settle(self, usd: float | None, tokens: int) -> None:
        """What it came to; None: nobody knows, so the USD that were set aside."""

    def close(self) -> None:
        """Whatever was not said by now: nothing is charged where it was not sent, all of it where it was."""


class Budget(Protocol):
    """What a run may spend, as one process has it. `tight`: a call with the default cap did not fit any more. While it
    is not `limited`, nothing is set aside."""

    tight: bool
    limited: bool

    async def reserve(self, most: Amount) -> Reservation:
        """Set aside; waits for settlements where it does not fit. Raises BudgetReached once it never will."""
        ...


class _Unlimited:
    """Nobody bounds what is spent."""

    def sending(self) -> None: ...

    def unbilled(self) -> None: ...

    def settle(self, usd: float | None, tokens: int) -> None: ...

    def close(self) -> None: ...


UNLIMITED_BUDGET: Reservation = _Unlimited()


def cap_in(said: Mapping[str, Any]) -> int | None:
    """The cap among parameters, whatever its name."""
    found = [int(said[name]) for name in CAPS if isinstance(said.get(name), int)]
    return min(found) if found else None


def capper(model: BaseChatModel) -> Callable[[int], BaseChatModel] | None:
    """The same model, its answers at most so many tokens long; None where its class knows no such parameter."""
    fields = type(model).model_fields
    name = next((name for name in CAPS if name in fields), None)
    said = getattr(model, "params", None)  # our own transport sends its params as they are
    if name is None and not isinstance(said, dict):
        return None
    params: dict[str, Any] = said if isinstance(said, dict) else {}

    @lru_cache
    def capped(cap: int) -> BaseChatModel:
        if name is not None:
            return model.model_copy(update={name: cap})
        return model.model_copy(update={"params": {**params, str(getattr(model, "cap_name", "max_tokens")): cap}})

    return capped


@dataclass
class CallSizes:
    """What the answered calls of a model were like."""

    answers: int = 0
    densest: float = 0.0  # tokens a byte of the request
    longest: int = 0

    def note(self, size: int, usage: Mapping[str, int]) -> None:
        self.answers += 1
        self.densest = max(self.densest, usage["input"] / max(1, size))
        self.longest = max(self.longest, usage["output"])

    def most_read(self, size: int) -> int:
        """Tokens that a request of so many bytes may come to."""
        if self.answers < _LEARNED_FROM:
            return size
        return min(size, int(2 * self.densest * size) + 1)

    def tight_cap(self, known: Iterable[int] = ()) -> int | None:
        """Four times the longest answer, or more; None where too little is known, or that saves little. `known`: the
        lengths of answers that other processes were given."""
        others = list(known)
        longest = max([self.longest, *others])
        cap = max(_LEAST_CAP, 1 << (4 * longest).bit_length())
        return cap if self.answers + len(others) >= _LEARNED_FROM and 2 * cap <= DEFAULT_CAP else None


def most_of(price: Callable[[dict[str, int]], float | None], read: int, cap: int) -> Amount:
    """No call of so many tokens at most costs more. A price that nobody knows is refused before a run with a budget
    begins."""
    bound = -(-read // _ROUNDED_TO) * _ROUNDED_TO
    dearest = max(price({"input": bound, "output": cap, "reasoning": thought}) or 0.0 for thought in (0, cap))
    return amount_of(dearest, bound + cap)


def amount_of(usd: float | None, tokens: int) -> Amount:
    return Amount(-int(-(usd or 0.0) * NANOS // 1), tokens)
