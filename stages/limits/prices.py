"""The price of a call: from the spec's `prices`, else from the genai-prices package (bundled data, no network)."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from schemas.spec.sections import Price

_CACHE = frozenset(("cached_input", "cache_write", "cache_write_1h"))
Pricer = Callable[[dict[str, int]], float | None]


def pricer(name: str, prices: Mapping[str, Price]) -> Pricer:
    """Return the USD of a call's usage for a model `provider:name`; None if the price is unknown. `offline:` is
    free."""
    if name.startswith("offline:"):
        return lambda usage: 0.0
    price = prices.get(name)
    if price is not None:
        return lambda usage: _from_spec(price, usage)
    return lambda usage: _from_package(name, tuple(sorted(usage.items())))


def saved_by_cache(price: Pricer, usage: dict[str, int]) -> int | None:
    """Return the USD / 10^9 that a provider's cache saved in a call, less than zero if it cost more than it saved; None
    if it had no part in it, or the price is unknown."""
    if not (usage.get("cached_input") or usage.get("cache_write")):
        return None
    paid, plain = price(usage), price({kind: count for kind, count in usage.items() if kind not in _CACHE})
    return None if paid is None or plain is None else round((plain - paid) * 1_000_000_000)


def _from_spec(price: Price, usage: dict[str, int]) -> float:
    cached, reasoning = usage.get("cached_input", 0), usage.get("reasoning", 0)
    written, hour = usage.get("cache_write", 0), usage.get("cache_write_1h", 0)
    write_price = _default_to(price.cache_write, price.input)
    input_cost = (usage["input"] - cached - written) * price.input + cached * _default_to(
        price.cached_input, price.input
    )
    input_cost += (written - hour) * write_price + hour * _default_to(price.cache_write_1h, write_price)
    output_cost = (usage["output"] - reasoning) * price.output + reasoning * _default_to(price.reasoning, price.output)
    return (input_cost + output_cost) / 1_000_000


def _default_to(price: float | None, usual: float) -> float:
    return usual if price is None else price


@lru_cache(maxsize=4096)
def _from_package(name: str, usage: tuple[tuple[str, int], ...]) -> float | None:
    from genai_prices import Usage, calc_price  # 150 ms of import, only if a price is needed

    provider, _, model = name.partition(":")
    tokens = dict(usage)
    written = {f"{name}_tokens": tokens[name] for name in ("cache_write", "cache_write_1h") if tokens.get(name)}
    try:
        price = calc_price(
            Usage(
                input_tokens=tokens["input"],
                output_tokens=tokens["output"],
                cache_read_tokens=tokens.get("cached_input", 0),
                **written,
            ),
            model_ref=model,
            provider_id={"google_genai": "google", "bedrock": "aws"}.get(provider, provider),
        )
    except (LookupError, ValueError):  # no such model, or usage that does not add up: a paid answer is kept anyway
        return None
    return float(price.total_price)
