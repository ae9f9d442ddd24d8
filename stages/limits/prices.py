"""The price of a call: from the spec's `prices`, else from the genai-prices package (bundled data, no network).

Images that a provider bills as tokens are in the usage that it reports; only a price of the spec's is by the image, as
the package has none.

Flex and batch cost half of the standard price, as OpenAI, Azure, Anthropic, Google and AWS publish it; where the
package has a model's own prices for them, those count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from schemas.spec.sections import Price
from schemas.tier import Tier

WEB_SEARCHES = "web_searches"  # in usage: those that a provider made for a call, as many as it bills
_THOUSAND = 1_000
_CACHE = frozenset(("cached_input", "cache_write", "cache_write_1h"))
# How the package names a provider.
_PROVIDERS = {"google_genai": "google", "google_vertexai": "google", "bedrock": "aws", "bedrock_converse": "aws"}
Pricer = Callable[[dict[str, int]], float | None]
_OF_STANDARD: dict[Tier, float] = {"standard": 1.0, "flex": 0.5, "batch": 0.5}
# How the package names a tier.
_CONTEXTS: dict[Tier, dict[str, str]] = {
    "standard": {},
    "flex": {"service_tier": "flex"},
    "batch": {"processing": "batch"},
}


@dataclass(frozen=True)
class ModelPrice:
    """The price of a model's calls at one tier: USD of a call's usage, None if it is not known. `own`: the spec's price
    of the model."""

    name: str
    own: Price | None
    tier: Tier = "standard"

    def __call__(self, usage: dict[str, int]) -> float | None:
        if self.name.startswith("offline:"):
            return 0.0
        searches = usage.get(WEB_SEARCHES, 0)
        if self.own is not None:
            tokens: float | None = _OF_STANDARD[self.tier] * _from_spec(self.own, usage)
        else:
            counts = tuple(sorted(item for item in usage.items() if item[0] != WEB_SEARCHES))
            tokens = _from_package(self.name, counts, self.tier)
        if not searches or tokens is None:
            return tokens
        thousand = self._thousand_searches()
        return None if thousand is None else tokens + searches * thousand / _THOUSAND

    def _thousand_searches(self) -> float | None:
        """Return the USD of a thousand web searches, which no tier makes cheaper; None if that is not known."""
        own = self.own.web_search if self.own is not None else None
        return _thousand_searches_by_package(self.name) if own is None else own


def pricer(name: str, prices: Mapping[str, Price], tier: Tier = "standard") -> Pricer:
    """Return the price of a model `provider:name`. `offline:` is free."""
    return ModelPrice(name, prices.get(name), tier)


def tier_price(price: Pricer, tier: Tier) -> Pricer:
    """Return the price of the same model at another tier."""
    if isinstance(price, ModelPrice):
        return replace(price, tier=tier)

    def part(usage: dict[str, int]) -> float | None:
        standard = price(usage)
        return None if standard is None else _OF_STANDARD[tier] * standard

    return part


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
    images = usage.get("images", 0) * (price.image or 0.0)
    return (input_cost + output_cost) / 1_000_000 + images


def _default_to(price: float | None, usual: float) -> float:
    return usual if price is None else price


@lru_cache(maxsize=4096)
def _from_package(name: str, usage: tuple[tuple[str, int], ...], tier: Tier) -> float | None:
    standard = _in_context(name, usage, "standard")
    if tier == "standard" or not standard:
        return standard
    own = _in_context(name, usage, tier)
    return own if own is not None and own != standard else _OF_STANDARD[tier] * standard


@lru_cache(maxsize=256)
def _thousand_searches_by_package(name: str) -> float | None:
    """Return the price of a thousand web searches; None where the package has none, or that of no model."""
    tokens = (("input", _THOUSAND), ("output", 0))
    with_them = _in_context(name, (*tokens, (WEB_SEARCHES, _THOUSAND)), "standard")
    without = _in_context(name, tokens, "standard")
    if with_them is None or without is None or with_them == without:
        return None
    return round(with_them - without, 6)


def load() -> None:
    """Load the package's prices, 15 MB, before processes are forked that would each do it."""
    _in_context("", (("input", 0), ("output", 0)), "standard")  # of no model: all are read to know


def _in_context(name: str, usage: tuple[tuple[str, int], ...], tier: Tier) -> float | None:
    from genai_prices import Usage, calc_price  # 150 ms of import, only if a price is needed

    provider, _, model = name.partition(":")
    if _PROVIDERS.get(provider) == "google":
        model = model.rpartition("/")[2]  # of models/NAME, publishers/google/models/NAME
    tokens = dict(usage)
    further = {f"{name}_tokens": tokens[name] for name in ("cache_write", "cache_write_1h") if tokens.get(name)}
    if WEB_SEARCHES in tokens:
        further[WEB_SEARCHES] = tokens[WEB_SEARCHES]
    try:
        price = calc_price(
            Usage(
                input_tokens=tokens["input"],
                output_tokens=tokens["output"],
                cache_read_tokens=tokens.get("cached_input", 0),
                **further,
            ),
            model_ref=model,
            provider_id=_PROVIDERS.get(provider, provider),
            price_context=_CONTEXTS[tier],
        )
    except (LookupError, ValueError):  # no such model, or usage that does not add up: a paid answer is kept anyway
        return None
    return float(price.total_price)
