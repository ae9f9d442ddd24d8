"""Money around a model call: before it an upper bound is set aside, after it what it was is charged.

An input token is at least a byte of the request, and an answer is no longer than the cap that the provider is held to:
`max_tokens` of the spec, or DEFAULT_CAP, which is then sent along. So what is set aside is never too little.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel

DEFAULT_CAP = 4_096
NANOS = 1_000_000_000
# The names under which chat models take the cap of an answer.
CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict", "max_tokens_to_sample")
_ROUNDED_TO = 64  # bytes: so that few different sizes are priced


class Amount(NamedTuple):
    """USD / 10^9, exact in sums, and tokens."""

    nanos: int = 0
    tokens: int = 0

    def __add__(self, other: object) -> "Amount":
        assert isinstance(other, Amount)
        return Amount(self.nanos + other.nanos, self.tokens + other.tokens)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.nanos - other.nanos, self.tokens - other.tokens)


NOTHING = Amount()


class Held(Protocol):
    """What is set aside for one request. A request that went out is charged in full until it is known better."""

    def sending(self) -> None: ...

    def unbilled(self) -> None: ...

    def settle(self, usd: float | None, tokens: int) -> None:
        """What it came to; None: nobody knows, so the USD that were set aside."""

    def close(self) -> None:
        """Whatever was not said by now: nothing is charged where it was not sent, all of it where it was."""


class Purse(Protocol):
    """What a run may spend, as one process has it."""

    async def reserve(self, most: Amount) -> Held:
        """Set aside; waits for settlements where it does not fit. Raises BudgetReached once it never will."""
        ...


class _Free:
    """Nobody bounds what is spent."""

    def sending(self) -> None: ...

    def unbilled(self) -> None: ...

    def settle(self, usd: float | None, tokens: int) -> None: ...

    def close(self) -> None: ...


FREE: Held = _Free()


def cap_in(said: Mapping[str, Any]) -> int | None:
    """The cap among parameters, whatever its name."""
    found = [int(said[name]) for name in CAPS if isinstance(said.get(name), int)]
    return min(found) if found else None


def capped(model: BaseChatModel, cap: int) -> BaseChatModel | None:
    """The same model, its answers at most `cap` tokens long; None where its class knows no such parameter."""
    fields = type(model).model_fields
    name = next((name for name in CAPS if name in fields), None)
    if name is not None:
        return model.model_copy(update={name: cap})
    params = getattr(model, "params", None)  # our own transport sends its params as they are
    if isinstance(params, dict) and "params" in fields:
        return model.model_copy(update={"params": {**params, str(getattr(model, "cap_name", "max_tokens")): cap}})
    return None


def most_of(price: Callable[[dict[str, int]], float | None], size: int, cap: int) -> Amount:
    """No call of this many bytes costs more. A price that nobody knows is refused before a run with a budget begins."""
    bound = -(-size // _ROUNDED_TO) * _ROUNDED_TO
    dearest = max(price({"input": bound, "output": cap, "reasoning": thought}) or 0.0 for thought in (0, cap))
    return amount_of(dearest, bound + cap)


def amount_of(usd: float | None, tokens: int) -> Amount:
    return Amount(-int(-(usd or 0.0) * NANOS // 1), tokens)
