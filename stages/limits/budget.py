"""The budget of a model call: an upper bound is reserved before it, its real cost is charged after it.

A token of the request is a byte at least; once answers were seen, half of the fewest bytes that a token took. An answer
is no longer than its cap: `max_tokens` of the spec, or DEFAULT_CAP and room to think, which is then sent along. Once
that does not fit the budget any more, a smaller cap is, still far longer than any answer so far."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

DEFAULT_CAP = 4_096
NANOS = 1_000_000_000
# The names under which chat models take the cap of an answer.
CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict", "max_tokens_to_sample")
_PLAIN_CAP = "max_tokens"
MOST_SEARCHES = 8  # of the web, in one call, unless its parameters set another number
SEARCH_TOKENS = 10_000  # of a search's results, which are input too: providers name no bound
_LEARNED_FROM = 8  # answers, before their sizes are relied on
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
    """The amount reserved for one request. A sent request is charged in full until its cost is known."""

    def sending(self) -> None: ...

    def unbilled(self) -> None: ...

    def settle(self, usd: float | None, tokens: int) -> None:
        """Charge the real cost; None: the cost is unknown, so the reserved USD are charged."""

    def close(self) -> None:
        """End the reservation: if it was not settled, all of it is charged if the request was sent, else nothing."""


class Budget(Protocol):
    """The budget of a run in one process. `tight`: a call with the default cap did not fit any more. Nothing is
    reserved unless it is `limited`."""

    tight: bool
    limited: bool

    async def reserve(self, most: Amount) -> Reservation:
        """Reserve an amount; waits for settlements if it does not fit. Raises BudgetReached if it can never fit."""
        ...


class _Unlimited:
    """A reservation without a budget."""

    def sending(self) -> None: ...

    def unbilled(self) -> None: ...

    def settle(self, usd: float | None, tokens: int) -> None: ...

    def close(self) -> None: ...


UNLIMITED_BUDGET: Reservation = _Unlimited()


def cap_in(parameters: Mapping[str, Any]) -> int | None:
    """Return the cap of answers among parameters, under any of its names."""
    found = [int(parameters[name]) for name in CAPS if isinstance(parameters.get(name), int)]
    return min(found) if found else None


def without_cap(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without the cap of answers, under any of its names."""
    kept = {name: value for name, value in parameters.items() if name not in CAPS}
    if isinstance(extra := kept.get("extra_body"), dict):
        kept["extra_body"] = {name: value for name, value in extra.items() if name not in CAPS}
        if not kept["extra_body"]:
            del kept["extra_body"]
    return kept


def with_plain_cap(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with the cap of answers under one name, whatever it is."""
    cap = cap_in(parameters)
    if cap is None or [name for name in CAPS if name in parameters] == [_PLAIN_CAP]:
        return parameters
    return {**{name: value for name, value in parameters.items() if name not in CAPS}, _PLAIN_CAP: cap}


class _Copied(Protocol):
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


Model = TypeVar("Model", bound=_Copied)


def capper(model: Model) -> Callable[[int], Model] | None:
    """Return a function that caps a chat model's answers to a number of tokens; None if its class has no such
    parameter."""
    fields: Mapping[str, Any] = getattr(type(model), "model_fields", {})
    name = next((name for name in CAPS if name in fields), None)
    sent_params = getattr(model, "params", None)  # our own transport sends its params as they are
    if name is None and not isinstance(sent_params, dict):
        return None
    params: dict[str, Any] = sent_params if isinstance(sent_params, dict) else {}

    @lru_cache
    def capped(cap: int) -> Model:
        if name is not None:
            return model.model_copy(update={name: cap})
        return model.model_copy(update={"params": {**params, str(getattr(model, "cap_name", "max_tokens")): cap}})

    return capped


@dataclass
class CallSizes:
    """The sizes of the answered calls of a model."""

    answers: int = 0
    densest: float = 0.0  # tokens a byte of the request
    longest: int = 0

    def note(self, size: int, usage: Mapping[str, int]) -> None:
        self.answers += 1
        self.densest = max(self.densest, usage["input"] / max(1, size))
        self.longest = max(self.longest, usage["output"])

    def most_read(self, size: int) -> int:
        """Return the most tokens that a request of `size` bytes may have."""
        if self.answers < _LEARNED_FROM:
            return size
        return min(size, int(2 * self.densest * size) + 1)

    def tight_cap(self, usual: int = DEFAULT_CAP, known: Iterable[int] = ()) -> int | None:
        """Return four times the longest answer, or more; None if too little is known, or it saves little against the
        `usual` cap. `known`: the lengths of answers in other processes."""
        other_lengths = list(known)
        longest = max([self.longest, *other_lengths])
        cap = max(_LEAST_CAP, 1 << (4 * longest).bit_length())
        return cap if self.answers + len(other_lengths) >= _LEARNED_FROM and 2 * cap <= usual else None


def most_of(
    price: Callable[[dict[str, int]], float | None],
    read: int,
    cap: int,
    *,
    cache: Literal["5m", "1h"] | None = None,
    searches: int = 0,
    images: int = 0,
) -> Amount:
    """Return the upper bound of a call's cost and tokens; `cache`: all of the request may be written to the provider's
    cache, for so long at most; `searches`: so many of the web, whose results are reckoned, as they have no bound;
    `images`: of the request. A run with a budget does not start if a price is unknown."""
    bound = -(-read // _ROUNDED_TO) * _ROUNDED_TO + searches * SEARCH_TOKENS
    inputs: list[dict[str, int]] = [{"input": bound}]
    if cache is not None:
        inputs.append({"input": bound, "cache_write": bound})
    if cache == "1h":
        inputs.append({"input": bound, "cache_write": bound, "cache_write_1h": bound})
    if searches:
        inputs += [{**sizes, "web_searches": searches} for sizes in inputs]  # whose price may be unknown
    highest = max(
        price({**sizes, "output": cap, "reasoning": reasoning, "images": images}) or 0.0
        for sizes in inputs
        for reasoning in (0, cap)
    )
    return amount_of(highest, bound + cap)


def amount_of(usd: float | None, tokens: int) -> Amount:
    return Amount(-int(-(usd or 0.0) * NANOS // 1), tokens)
